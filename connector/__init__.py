"""
The agent's side: one local HTTP endpoint for MCP clients that cannot make the tunnel's TLS themselves.

* ``cli``            the command ``sallyport connect``
* ``cli_options``    the options that name a tunnel and who calls it, which ``sallyport bench`` has as well
* ``client``         the same as functions: serve an endpoint, make one canary call
* ``http_endpoint``  the loopback listeners, and what becomes of a request that arrives there
* ``local_request``  who may ask, and what a request looks like on its way to the gateway (pure)
* ``dial``           one checked TLS connection to the gateway, through the relay
* ``refusals``       what an alert or a broken connection means, in words (pure)
* ``own_bundle``     a caller's certificate, taken anew when its file changes
* ``own_key``        a caller with an API key, who finds the root by the tunnel's ID
* ``bundles``        where a caller's bundle lies on this system, and is it the right one
* ``snippets``       the configuration to paste into an agent (pure)

A request passes ``http_endpoint`` → ``local_request`` → ``dial``; everything that can fail on the way is
an error of ``errors``, which says at which hop and whether the call may have been executed.
"""
