"""
Which event loop a process of the tunnel runs on.

One place, because relay, gateway and connector must answer alike: uvloop where it is installed, plain asyncio
elsewhere and where SALLYPORT_LOOP=asyncio asks for it. Everything works on both; uvloop is faster.
"""

import importlib.util
import os


def wants_uvloop() -> bool:
    """Say whether to run on uvloop."""
    return os.environ.get("SALLYPORT_LOOP") != "asyncio" and importlib.util.find_spec("uvloop") is not None
