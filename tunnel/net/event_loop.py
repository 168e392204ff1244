"""
Which event loop a process of the tunnel runs on.

One place, because relay, gateway and connector must answer alike: uvloop where it is installed, plain asyncio
elsewhere and where SALLYPORT_LOOP=asyncio asks for it. Everything works on both; uvloop is faster.
"""

import importlib.util
import os
from typing import Final

from sallyport.tunnel.errors import SettingRefused

VARIABLE: Final = "SALLYPORT_LOOP"


def wants_uvloop() -> bool:
    """
    Say whether to run on uvloop.

    Raises:
        SettingRefused: SALLYPORT_LOOP names no loop, or one that is not installed.
    """
    wanted = os.environ.get(VARIABLE) or None
    if wanted is not None and wanted not in ("asyncio", "uvloop"):
        raise SettingRefused(VARIABLE, wanted, "it is asyncio or uvloop")
    has_uvloop = importlib.util.find_spec("uvloop") is not None
    if wanted == "uvloop" and not has_uvloop:
        raise SettingRefused(VARIABLE, wanted, "uvloop is not installed")
    return has_uvloop and wanted != "asyncio"
