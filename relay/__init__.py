"""
What callers reach: the relay. It sees names and sizes, never content.

Map, in the order in which a connection meets the files:

* ``listener``       the public socket
* ``arrivals``       accepts, and bounds those who have not said hello
* ``greeting``       … one of them: a balancer's header, then a peek at the ClientHello, which stays untouched
* ``admission``      the decision by server name: a link, a caller, or an alert (pure)
* ``front``          acts on the decision: hands the untouched socket to one of
* ``callers``        … a caller's stream, spliced to one of the tunnel's links,
* ``links``          … a gateway's link: TLS, judged after its HELLO, then open for streams,
* ``farewell``       … or one TLS alert and a close that lets it arrive
* ``link_judgement`` who may have a link (pure)
* ``pending``        who waits for a link, and who has to go where there are too many,
* ``link_contexts``  TLS for links, one context per tunnel, renewed when files change
* ``registry``       who is known and connected, and which link a caller gets (pure)
* ``store``          the registered tunnels, in a database
* ``registration``   which root certificates are taken (pure)
* ``app``            start-up, supervision, drain
* ``initialise``, ``cli``, ``tunnel_cli``  the operator's commands
* ``errors``         what goes wrong, drawn as a tree

The relay holds no key or certificate for any tunnel's names: it cannot end a caller's TLS, and says what it
has to say to callers in TLS alerts (``tunnel.alerts``). Payload passes through ``tunnel.net`` only, which
keeps no byte longer than it takes to send it, and no log line here has a field for any.
"""
