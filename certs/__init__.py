"""
Who is who: the keys and certificates of a tunnel, and the one verifier that judges them.

Map of the package, from what is written down to what is proven:

* ``names``        tunnel IDs, DNS names and identities: written forms, parsed once into types
* ``profile``      the certificate profile as data
* ``authority``    making certificates by the profile
* ``pem``          PEM text, strictly
* ``storage``      bytes on disk: private, whole, flushed
* ``lock``         one command at a time on a file
* ``files``        the identity directory and a leaf's files
* ``bundle``       a caller's one file
* ``api_key``      an API key: how one is written, and what of it is kept
* ``facts``        one certificate, read into plain facts
* ``chain``        verified chains: out of a TLS handshake, or built from files
* ``rules``        the rules of the profile, one function each
* ``verify``       the strict verifier: which rules, in which order
* ``relay_trust``  what proves the relay: CA file, pin, system store
* ``contexts``     the one place that makes TLS contexts
* ``issuer``       what ``certs init`` and ``certs issue`` do
* ``renewal``      when a certificate is due to be replaced, and by what
* ``inventory``    what ``certs status`` lists
* ``rotation``     what ``certs rotate`` and ``certs renew`` do
* ``describe``     what ``certs show`` says
* ``check``        what ``certs check`` says
* ``cli``          the commands (``cli_renewal``, ``cli_options``)
* ``errors``       everything that is refused, as one tree

A leaf of the import graph: nothing here imports another package of ours. Whoever checks a peer needs
``contexts`` for the handshake and ``verify`` for the verdict; both work on the verified chain and on
nothing else that a peer sends.
"""
