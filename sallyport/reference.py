"""
The documents that are made from the code, so that they cannot say anything else than it does.

    python -m sallyport.reference [FOLDER]     writes them, into docs/ when no folder is named
    python -m sallyport.reference --check      writes nothing; exits 1 when one of them is stale

``docs/configuration.md`` and the JSON Schemas come from the config models (``key_reference``),
``docs/limits.md`` from the numbers that the code marks as limits (``limit_reference``). ``make docs`` runs
this in a checkout.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from sallyport.config.gateway import GatewayConfig
from sallyport.config.relay import RelayConfig
from sallyport.key_reference import keys_page, schema_text
from sallyport.limit_reference import limits_page

_DOCS = Path(__file__).resolve().parents[1] / "docs"


def documents() -> dict[str, str]:
    """Return the text of every generated document by its file's name."""
    return {
        "configuration.md": keys_page(),
        "limits.md": limits_page(),
        "gateway.schema.json": schema_text(GatewayConfig, "gateway.yaml"),
        "relay.schema.json": schema_text(RelayConfig, "relay.yaml"),
    }


def stale(folder: Path) -> list[str]:
    """Return the names of the documents in a folder that are not what the code would write now."""
    texts = documents()
    return [name for name, text in texts.items() if not _is_same(folder / name, text)]


def _is_same(path: Path, text: str) -> bool:
    return path.is_file() and path.read_text(encoding="utf-8") == text


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the documents, or check them; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m sallyport.reference", description="write the documents that are made from the code"
    )
    parser.add_argument("folder", nargs="?", type=Path, default=_DOCS, help="docs/ of the checkout if none")
    parser.add_argument("--check", action="store_true", help="only say which are stale")
    wanted = parser.parse_args(arguments)
    found = stale(wanted.folder)
    if wanted.check:
        if found:
            sys.stderr.write(f"error: stale: {', '.join(found)}; run `make docs`\n")
        return 1 if found else 0
    texts = documents()
    for name in found:
        (wanted.folder / name).write_text(texts[name], encoding="utf-8")
        sys.stderr.write(f"wrote {wanted.folder / name}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
