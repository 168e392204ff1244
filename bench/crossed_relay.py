"""
The relay of an operator who wires tunnels crosswise: the callers of one to the gateways of another.

It is the real relay with two functions exchanged, which is what somebody who owns the machine can do.

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
    candidates, is_served = Registry.candidates, Registry.is_served

    def led_to(label: str) -> str:
        return other if label == victim else label

    def crossed(registry: Registry[GatewayLink], label: str, address: str) -> list[LiveLink[GatewayLink]]:
        return candidates(registry, led_to(label), address)

    def pretended(registry: Registry[GatewayLink], label: str) -> bool:
        return is_served(registry, led_to(label))

    # This is the sabotage: whom the victim's callers reach, and whether anybody is said to be there.
    Registry.candidates = crossed  # type: ignore[method-assign,assignment]
    Registry.is_served = pretended  # type: ignore[method-assign,assignment]
    settings = load_relay(Path(config))
    configure_logging(settings.log)
    anyio.run(app.run, settings)


if __name__ == "__main__":
    main()
