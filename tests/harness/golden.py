"""
Texts that the product is held to: one file, a section for each, changed only on purpose.

A section is ``=== name`` and the text below it. What differs from run to run (ports, folders, IDs, times) is
replaced by words before it is compared. ``SALLYPORT_GOLDEN=write`` writes what is found instead of comparing
it; the difference is then read and committed like any other change.
"""

import os
import re
from collections.abc import Mapping
from pathlib import Path

_HEADING = "=== "
_REPLACED = (
    (re.compile(r"/[^\s\"':]*/(?=product/|relay/|acme/|other/|old/)"), "FOLDER/"),
    (re.compile(r"tnl_[a-z2-7]{32}"), "TUNNEL"),
    (re.compile(r"\b[a-z2-7]{32}\b"), "LABEL"),
    (re.compile(r"\b[0-9a-f]{16}(\.\d+)?\b"), "CALL"),
    (re.compile(r"(?<=serial )[0-9a-f]+"), "SERIAL"),
    (re.compile(r"(?<=127\.0\.0\.1:)\d+|(?<=port )\d+"), "PORT"),
    (re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d)?(\.\d+)?(Z|\+00:00| UTC)?"), "TIME"),
    (re.compile(r"\d{4}-\d\d-\d\d"), "DATE"),
    (re.compile(r"sha256/[A-Za-z0-9+/]{43}="), "PIN"),
    (re.compile(r"(?<=CN=sallyport relay CA )\w+"), "NAME"),
)


def normalised(text: str, replaced: Mapping[str, str] | None = None) -> str:
    """
    Replace what no two runs have in common.

    Args:
        text: What the product said.
        replaced: Words for texts of this run, put in first.
    """
    for found, word in (replaced or {}).items():
        text = text.replace(found, word)
    for pattern, word in _REPLACED:
        text = pattern.sub(word, text)
    return "\n".join(line.rstrip() for line in text.strip().splitlines())


class Golden:
    """The texts of one file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._is_writing = os.environ.get("SALLYPORT_GOLDEN") == "write"

    @property
    def names(self) -> list[str]:
        """The sections, in order."""
        return list(self._read())

    def check(self, name: str, text: str) -> None:
        """
        Compare a text with its section, or write it when that is what was asked for.

        Raises:
            AssertionError: The product says something else than it did.
        """
        known = self._read()
        if self._is_writing:
            self._write(known | {name: text})
            return
        assert name in known, f"{self._path.name} has no {name!r}: run with SALLYPORT_GOLDEN=write"
        assert text == known[name], f"{name!r} changed: if on purpose, run with SALLYPORT_GOLDEN=write"

    def _read(self) -> dict[str, str]:
        if not self._path.exists():
            return {}
        _first, *sections = ("\n" + self._path.read_text(encoding="utf-8")).split(f"\n{_HEADING}")
        parts = (section.partition("\n") for section in sections)
        return {name: text.strip() for name, _, text in parts}

    def _write(self, sections: Mapping[str, str]) -> None:
        text = "\n".join(f"{_HEADING}{name}\n{text}\n" for name, text in sections.items())
        self._path.write_text(text, encoding="utf-8")
