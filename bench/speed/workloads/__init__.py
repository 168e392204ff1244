"""
The loads of the table, one file for each kind.

    workload.py       what a workload is, and how hard a round tries
    small_calls.py    1, 32 and 256 callers over kept connections
    connections.py    a handshake for each call, with a key and with a certificate
    bulk.py           64 MiB down and up; small calls beside a download
    idle_streams.py   1,000 and 10,000 silent streams
    event_streams.py  1,000 streams × 10 events a second
    far_link.py       a round trip of 200 ms, with and without loss
"""

from typing import Final

from bench.speed.workloads.bulk import BesideBulk, Transfers
from bench.speed.workloads.connections import NewConnections
from bench.speed.workloads.event_streams import EventStreams
from bench.speed.workloads.far_link import LOSS, FarLink
from bench.speed.workloads.idle_streams import IdleStreams
from bench.speed.workloads.small_calls import SmallCalls
from bench.speed.workloads.workload import Workload

WORKLOADS: Final[tuple[Workload, ...]] = (
    SmallCalls(1, quick=True),
    SmallCalls(32, quick=True),
    SmallCalls(256),
    NewConnections(mutual=False),
    NewConnections(mutual=True, quick=True),
    Transfers(up=False, quick=True),
    Transfers(up=True, quick=True),
    BesideBulk(),
    IdleStreams(1000),
    IdleStreams(10_000),
    EventStreams(),
    FarLink(),
    FarLink(loss=LOSS),
)
