"""
``make rotation``: certificates are replaced under open streams, and no stream is lost.

A hundred streams are open through the connector and by TLS straight to the relay, most of them event streams
and some calls that have no answer yet. Then the gateway's, the link's, the relay's and the caller's
certificate are replaced twenty times each while all processes run. Every stream must go on, step by step,
and every next handshake must show the new serial number.

    python -m bench.rotation [--streams N] [--rounds N]
"""

import argparse
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

import anyio

from bench.report import finish, say
from tests.harness.product import Product
from tests.harness.rotation import Figures, rotate_under_streams
from tests.harness.stage import Stage, start_fixture


def main() -> int:
    """Run the rotations, print what was lost, and return the exit code."""
    parser = argparse.ArgumentParser(description="replace every certificate under open streams")
    parser.add_argument("--streams", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=20)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="sallyport-rotation-") as folder, ExitStack() as stack:
        fixture = start_fixture(Path(folder))
        stack.enter_context(fixture.process)
        product = stack.enter_context(Product(Path(folder) / "product"))
        product.start_relay()
        tunnel = product.make_tunnel("acme", {"tickets": fixture.url})
        stage = Stage(fixture, product, tunnel, tunnel.start_gateway(), tunnel.start_connector())
        figures = anyio.run(_rotate, stage, arguments.streams, arguments.rounds)
    for reason in figures.lost:
        say(f"LOST {reason}")
    return _finish(figures)


async def _rotate(stage: Stage, streams: int, rounds: int) -> Figures:
    return await rotate_under_streams(stage, streams=streams, rounds=rounds)


def _finish(figures: Figures) -> int:
    line = (
        f"{figures.streams} streams, {figures.rotations.total()} rotations "
        f"({', '.join(f'{count} {kind}' for kind, count in figures.rotations.items())}): "
        f"{len(figures.lost)} lost, {figures.fresh.total()} of {figures.rotations.total()} next handshakes "
        f"with the new serial, taken within {max(figures.slowest.values(), default=0.0):.1f} s"
    )
    facts = {
        "streams": figures.streams,
        "rotations": dict(figures.rotations),
        "fresh": dict(figures.fresh),
        "lost": figures.lost,
        "steps": figures.steps,
        "slowest_seconds": figures.slowest,
    }
    return finish("rotation", line, facts, ok=figures.ok)


if __name__ == "__main__":
    sys.exit(main())
