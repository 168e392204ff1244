"""
``make bench-sdk``: what a path adds to calls of a server that is built with the official Python SDK.

One ``mcp`` 2.x server, in both eras of the protocol (2025-11-25: ``initialize`` and a session; 2026-07-28:
single requests), is called directly, through the tunnel and through MCP proxies that others wrote, in the
same run.

    server.py       the server: echo(text) and blob(size), over HTTP or on standard input and output
    paths.py        what a path is: where its front door is, and that of the server itself
    tunnelled.py    the two paths of this product: the connector on loopback, and TLS straight to the relay
    proxies.py      fastmcp, mcp-proxy and supergateway: how they are installed and put before the server
    http_client.py  the load's HTTP/1.1: keep-alive connections, nothing that costs time
    caller.py       MCP on it: the requests of both eras, and a look at each answer
    rounds.py       what is measured in a round, and in which order
    load.py         the process that measures, so that nothing else takes its time
    figures.py      medians, ratios, gates and targets; pure
    __main__.py     starts everything, has the load measure, prints and judges

Three choices decide how the figures read. The load is no SDK client: it costs a tenth of one, and leaves
the server and the path to set the pace. A ratio compares with the direct path *of the same round*, some
seconds apart at most, so that a noisy machine moves both; what is reported is the median of the rounds'
ratios. And every process logs as it does by default, one line a call for gateway, connector and most
proxies, into a pipe that is read; only the server is silent, which makes the direct path, and every ratio,
stricter.
"""
