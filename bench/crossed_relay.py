"""
The relay of an operator who wires tunnels crosswise: the callers of one to the gateways of another.

It is the real relay with one function exchanged, which is what somebody who owns the machine can do.

    python -m bench.crossed_relay CONFIG VICTIM_LABEL OTHER_LABEL
"""

import sys
from pathlib import Path

import anyio

from sallyport.config.loader import load_relay
from sallyport.config.logs import configure_logging
from sallyport.relay import app
from sallyport.relay.links import GatewayLink
from sallyport.relay.registry import LiveLink, Registry


def main() -> None:
    """Run until told to stop."""
    config, victim, other = sys.argv[1:]
    honest = Registry.candidates

    def crossed(registry: Registry[GatewayLink], label: str, address: str) -> list[LiveLink[GatewayLink]]:
        return honest(registry, other if label == victim else label, address)

    Registry.candidates = crossed  # type: ignore[method-assign,assignment]  # this is the sabotage
    settings = load_relay(Path(config))
    configure_logging(settings.log)
    anyio.run(app.run, settings)


if __name__ == "__main__":
    main()
