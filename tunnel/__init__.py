"""
What travels: the link protocol, inner TLS, and HTTP heads.

The files of this package are pure: no I/O, no clock, no randomness, no await. Time and bytes come in as
arguments, events and bytes come out. Only ``tunnel.net`` does I/O, and it carries out what is decided here.
SPEC.md, beside this file, is the contract of the link; the code cites its sections.

The link, from the wire upwards:

* ``limits``        every number of the protocol, with the attack or cost that it answers
* ``errors``        what can go wrong with what travels, for the whole package
* ``frames``        messages, headers, codes; ``opening``, ``hello``, ``control`` read and write payloads,
                    the last two by ``json_object``
* ``events``        what the mux tells
* ``stream_state``  the states of a stream, as one table
* ``windows``       credit, and the memory that it is lent from; ``idle_credit`` gives it back
* ``scheduler``     what goes into the next message
* ``buckets``       what is a flood;  ``keepalive``  who is still there;  ``handshake``  who may be a link
* ``streams``       what each frame means for a stream
* ``mux``           the link as a whole: start reading here

What travels inside a stream, and what the relay may say to callers:

* ``tls_engine``    inner TLS over memory buffers
* ``proxy_v2``      what a balancer says before it: the caller's address
* ``sni``           the ClientHello that the relay routes by;  ``alerts``  its only words for a caller
* ``http1``…        HTTP/1.1 heads and bodies, read strictly and written anew
"""
