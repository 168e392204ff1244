"""
Sallyport, a self-hosted MCP tunnel.

Map of the package. The folders stand at the top of the checkout and are imported from here through
relative symlinks committed in this folder (``sallyport/gateway -> ../gateway`` and so on): nothing of
ours collides in somebody's environment, and the wheel, the editable install, mypy and editors all see
the one right name.

* ``sallyport.tunnel``     what travels: frames, streams, inner TLS; pure, but for ``tunnel.net``
* ``sallyport.relay``      what callers reach: sees names and sizes, never content
* ``sallyport.gateway``    inside the private network: dials out, never listens
* ``sallyport.connector``  the agent's side
* ``sallyport.certs``      who is who
* ``sallyport.config``     what the operator writes
* ``sallyport.cli``, ``demo``, ``doctor``, ``bench``  the command

Imports go one way, which ``tests/test_architecture.py`` checks.
"""

from importlib.metadata import version

__version__ = version("sallyport")
