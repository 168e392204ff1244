"""
Every limit of the product in one table, made from the code.

Three kinds meet here: what the configuration sets (``key_reference``), what the link protocol says
(``tunnel.limits.LIMITS``), and the numbers that files of the product mark with ``tunnel.limits.limit``. The
last are found in the source, since the mark does nothing at run time: name, unit and reason stand there, and
the value is the module's own.
"""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from sallyport.config.gateway import GatewayConfig
from sallyport.config.relay import RelayConfig
from sallyport.key_reference import keys_of
from sallyport.tunnel.limits import LIMITS

_PACKAGE = Path(__file__).resolve().parent
_MARKED = ("relay", "gateway", "connector", "tunnel")
_IN_BYTES = ((1024**2, "MiB"), (1024, "KiB"))


_INTRODUCTION = """\
# Limits

Every number that bounds something, with what it answers. This page is made from the code by `make docs`.
What stands in a configuration file is its default and can be changed there; the others are fixed. Limits of
the link protocol that both ends must agree on are in [SPEC.md](../tunnel/SPEC.md) too.

A relay or a gateway holds at most its memory budget and 64 KiB for each stream of what its peers sent, beside
its own code: for one link full of stalled streams 64 MiB + 10,000 × 64 KiB, and as many streams again for
each further link, which every worker of a gateway has. What waits to be sent is bounded apart, by 64 KiB and
one read (256 KiB) a stream, and waits only where a reader has stopped; `make leaks` measures both. What is
said to be “at once” and is fixed holds for one process: for each worker of a gateway.

| where | limit | value | why |
| --- | --- | --- | --- |"""


@dataclass(frozen=True, slots=True)
class Row:
    """
    One limit, as the table shows it.

    Attributes:
        where: The file that keeps to it, or the configuration file that sets it.
        name: Of the constant or the key.
        value: With its unit.
        reason: The attack or the cost that it answers.
    """

    where: str
    name: str
    value: str
    reason: str


def limits_page() -> str:
    """Return the text of ``docs/limits.md``."""
    rows = [*_configured(), *_marked(), *_protocol()]
    lines = [f"| `{row.where}` | `{row.name}` | {row.value} | {row.reason} |" for row in rows]
    return "\n".join([_INTRODUCTION, *lines, ""])


def _configured() -> Iterator[Row]:
    """Yield the limits that a configuration file sets, with their defaults."""
    for file, model in (("gateway.yaml", GatewayConfig), ("relay.yaml", RelayConfig)):
        for key, schema, _is_required in keys_of(model):
            if key.startswith("limits.") or ".timeouts." in key:
                yield Row(file, key, f"{schema['default']}", str(schema["description"]))


def _marked() -> Iterator[Row]:
    """Yield the limits that stand in a file of their own."""
    for folder in _MARKED:
        for path in sorted((_PACKAGE / folder).rglob("*.py")):
            yield from _marked_in(path)


def _marked_in(path: Path) -> Iterator[Row]:
    place = path.relative_to(_PACKAGE)
    module = ".".join(("sallyport", *place.with_suffix("").parts))
    for name, mark in marks(path.read_text(encoding="utf-8")):
        _, unit, reason = mark.args
        value = getattr(import_module(module), name)
        text = shown(value, ast.literal_eval(unit))
        yield Row(place.as_posix(), name.lstrip("_"), text, ast.literal_eval(reason))


def marks(source: str) -> Iterator[tuple[str, ast.Call]]:
    """Yield the constants of a file that are marked as limits, each with its mark."""
    for statement in ast.parse(source).body:
        match statement:
            case ast.AnnAssign(target=ast.Name(id=name), value=ast.Call(func=ast.Name(id="limit")) as mark):
                yield name, mark


def _protocol() -> Iterator[Row]:
    """Yield the limits of the link protocol: first those that both ends must agree on."""
    for limit in sorted(LIMITS, key=lambda limit: limit.kind != "spec"):
        where = "tunnel/SPEC.md" if limit.kind == "spec" else "tunnel/limits.py"
        yield Row(where, limit.name, shown(limit.value, limit.unit), limit.reason)


def shown(value: float, unit: str) -> str:
    """Return a number with its unit, as a reader likes it: ``64 KiB``, ``10 s``, ``4,000/s``."""
    if unit == "bytes":
        for size, name in _IN_BYTES:
            if value >= size and value % size == 0 and value < 2**30:
                return f"{value / size:,.0f} {name}"
    match unit:
        case "seconds":
            return f"{value:,g} s"
        case "milliseconds":
            return f"{value:,g} ms"
        case "per second":
            return f"{value:,g}/s"
        case "number":
            return f"{value:,}"
        case _:
            return f"{value:,} {unit}"
