"""
The gateway: inside the private network. It dials out to the relay, never listens (health aside), ends the
inner TLS of each caller and forwards calls to internal MCP servers.

The way of a call, from the outside in:

* ``uplink``         keeps a link to the relay up (``backoff``: how long to wait between dials)
* ``door``           ends the inner TLS on each stream and learns who calls
* ``service``        puts HTTP on the connection (``attendance``: how many one caller has)
* ``exchange``       decides about each request, explains each failure, logs each call
* ``credentials``    who makes a request: certificate or API key (``keys``, ``keyring``: the keys file)
* ``routes``         SNI, Host and path: which server, which path (``raw_path``: what a path may look like)
* ``policy``         Origin, Authorization
* ``servers``        the config's servers: each one's pool, policy and timeouts
* ``upstream``       dials one of them (``upstream_url``)
* ``yardstick``      stands in for a server while somebody measures the tunnel

Around it: ``identity`` judges the gateway's own files, ``own_certificates`` takes new ones while it runs,
``app`` runs everything, ``check`` and ``status`` are behind the commands of ``cli``; ``errors`` is what can
go wrong. ``credentials``, ``keys``, ``routes``, ``raw_path``, ``policy``, ``backoff``, ``attendance``,
``upstream_url`` and ``status`` are pure; ``keys_cli`` has the commands that write the keys file.
"""
