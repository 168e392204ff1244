"""
What makes the load: ``wrk`` and ``curl`` where they can, small programs of their own where they cannot.

    callers.py      what a caller needs to connect, and the bytes of the call that it makes
    wrk.py          small calls over kept connections, by wrk
    curl.py         64 MiB down and up, by curl
    programs.py     starts one of the programs below, talks to it, ends it
    connections.py  a new connection and a full handshake for each call
    idle.py         connections that make one call and stay
    listeners.py    event streams, each event timed
    events.py       the server of the event streams
    slow_link.py    a link with a delay, a rate and loss

None of these sets the pace in Python: ``wrk`` and ``curl`` are C, a handshake is OpenSSL, an idle connection
does nothing. Those that move bytes in Python (``listeners.py`` with ``events.py``, and ``slow_link.py``) cost
the same for every system.
"""
