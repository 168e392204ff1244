"""
The systems under test, in the order of the table's columns.

    direct.py    no tunnel at all: what the upstream and the load can do
    ours.py      the product, its tunnel alone, and the product on the fallback stack
    frp.py chisel.py rathole.py ssh.py    the peers, each as its own documentation sets it up

Every peer has its link to the server encrypted and the server checked by the client, carries two TCP ports
(the upstream's TLS and the one that demands a client certificate), logs what it logs by default, to a file,
and is otherwise left at its defaults. ``python -m bench.speed.systems`` starts each and calls both ways.
"""

from bench.speed.system import System
from bench.speed.systems.chisel import Chisel
from bench.speed.systems.direct import Direct
from bench.speed.systems.frp import Frp
from bench.speed.systems.ours import BareTunnel, Ours
from bench.speed.systems.rathole import Rathole
from bench.speed.systems.ssh import Ssh


def all_systems() -> list[System]:
    """Return every system, whether or not it can run on this machine."""
    fallback = {"SALLYPORT_LOOP": "asyncio", "SALLYPORT_CARRIER": "websockets"}
    return [
        Direct(),
        Ours("sallyport"),
        BareTunnel("sallyport-tunnel"),
        Ours("sallyport-fallback", environment=fallback),
        Frp("frp"),
        Frp("frp-nomux", multiplexed=False),
        Chisel(),
        Rathole(),
        Ssh(),
    ]
