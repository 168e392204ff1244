"""
Python's garbage collector, set for processes that carry streams.

Nearly everything here is freed by its reference count; the collector is for the rest, and what it costs is
pauses. A full pass looks at every object that lives, and a process that has just started has 80,000 of them,
its modules, which are never garbage. A steady stream of calls leaves nothing behind and hardly ever wakes the
collector; callers who come do, because what they leave behind lives as long as their connections.

Measured in process, both ends of a link in one (CPython 3.11):

    full pass, with idle streams              0       2,000      10,000
        as Python comes                   20 ms       52 ms       78 ms
        frozen                             0 ms        8 ms       35 ms

    8,000 streams opened in a row       in the collector    longest pause
        as Python comes                     121 ms             101 ms
        frozen                               35 ms               9 ms
        frozen, 10,000 / 20 / 20             11 ms               1 ms
        frozen, 50,000 / 20 / 20             10 ms               4 ms

So all that is there at the start is taken out of the collector's sight, and a pass over the youngest comes
after 10,000 new objects instead of 700. More would only make each pass longer.
"""

import gc
from typing import Final

from sallyport.tunnel.limits import limit

_YOUNGEST: Final = limit(
    10_000, "number", "objects made and not freed between two passes of the collector over the youngest"
)  # fmt: skip
_PASSES_OF_YOUNGER: Final = limit(
    20, "number", "passes of the collector over one generation between two over the next"
)


def settle_collector() -> None:
    """Take what there is out of the collector's sight, and let it look less often; call it at the start."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(_YOUNGEST, _PASSES_OF_YOUNGER, _PASSES_OF_YOUNGER)
