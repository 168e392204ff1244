"""
Text to plain values that remember where they stood; pure.

The language is a strict subset of YAML (so of JSON too): one document of mappings, lists and scalars.
Refused, because in a configuration file they are an accident or an attack: duplicate keys, anchors and
aliases (the billion laughs need them), tags (``!!python/object``), merge keys, several documents, and
nesting deeper than 16.

Scalars follow YAML 1.2's core schema and not 1.1's, which the parser would apply by itself: only ``true``
and ``false`` are booleans, so ``keys: off`` is the word *off* and a country ``no`` is not false; ``12:30``
is text and not the number 750; a date is text.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TypeAlias

import yaml

Value: TypeAlias = "bool | int | float | str | list[Value] | dict[str, Value] | None"
Location: TypeAlias = tuple[str | int, ...]

_DEEPEST = 16  # far beyond any configuration, far below the interpreter's recursion limit
_INTEGER = re.compile(r"[-+]?[0-9]{1,18}")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]{1,3})?")
_NULLS = frozenset({"", "~", "null", "Null", "NULL"})
_BOOLEANS: Mapping[str, bool] = MappingProxyType(
    {word: value for value in (True, False) for word in (str(value), str(value).lower(), str(value).upper())}
)


@dataclass(frozen=True, slots=True)
class Document:
    """The value of a whole file, and the line (from 1) on which each of its keys and items begins."""

    value: Value
    lines: Mapping[Location, int]

    def line(self, location: Location) -> int:
        """Return the line of ``location``, or of the nearest thing around it when it is not there itself."""
        while location and location not in self.lines:
            location = location[:-1]
        return self.lines.get(location, 1)


class DocumentRefused(Exception):
    """
    The text is not a document that we read.

    Args:
        line: line of the text, from 1.
        location: the key it happened at; empty for the whole text.
        message: what is wrong.
        hint: what to do; may be empty.
    """

    def __init__(self, line: int, location: Location, message: str, hint: str = "") -> None:
        super().__init__(line, location, message, hint)
        self.line = line
        self.location = location
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"line {self.line}: {self.message}"


def read_document(text: str) -> Document:
    """
    Parse ``text``.

    Raises:
        DocumentRefused: it is not YAML, or uses a part of YAML that is refused here.
    """
    try:
        return _Builder(yaml.parse(text, Loader=yaml.SafeLoader)).document()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        raise DocumentRefused(line, (), f"not YAML: {_problem(error)}", _yaml_hint(text, line)) from error
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise DocumentRefused(line, (), "not YAML: a control character", "remove it") from error


@dataclass(slots=True)
class _Builder:
    """Builds values straight from the parser's events, so that nothing is expanded before it was judged."""

    events: Iterator[yaml.Event]
    lines: dict[Location, int] = field(default_factory=dict)

    def document(self) -> Document:
        value: Value = None
        documents = 0
        for event in self.events:
            if isinstance(event, yaml.DocumentStartEvent):
                documents += 1
                if documents > 1:
                    raise DocumentRefused(_line(event), (), "a second document begins here", "keep one")
                value = self._value(next(self.events), ())
        return Document(value, MappingProxyType(self.lines))

    def _value(self, event: yaml.Event, location: Location) -> Value:
        self._refuse_indirection(event, location)
        self.lines.setdefault(location, _line(event))
        if isinstance(event, yaml.ScalarEvent):
            return _scalar(event.value) if event.style is None else str(event.value)
        if len(location) >= _DEEPEST:
            raise DocumentRefused(_line(event), location, f"nested deeper than {_DEEPEST} levels")
        return self._list(location) if isinstance(event, yaml.SequenceStartEvent) else self._mapping(location)

    def _list(self, location: Location) -> Value:
        items: list[Value] = []
        while not isinstance(event := next(self.events), yaml.SequenceEndEvent):
            items.append(self._value(event, (*location, len(items))))
        return items

    def _mapping(self, location: Location) -> Value:
        items: dict[str, Value] = {}
        while not isinstance(event := next(self.events), yaml.MappingEndEvent):
            key = self._key(event, location)
            here = (*location, key)
            if key in items:
                message = f"given twice, first on line {self.lines[here]}"
                raise DocumentRefused(_line(event), here, message, "keep one of them")
            self.lines[here] = _line(event)
            items[key] = self._value(next(self.events), here)
        return items

    def _key(self, event: yaml.Event, location: Location) -> str:
        self._refuse_indirection(event, location)
        if not isinstance(event, yaml.ScalarEvent) or not event.value:
            raise DocumentRefused(_line(event), location, "a key must be a word")
        return str(event.value)

    def _refuse_indirection(self, event: yaml.Event, location: Location) -> None:
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            raise DocumentRefused(_line(event), location, "anchors and aliases are refused", "write it out")
        if getattr(event, "tag", None):
            raise DocumentRefused(_line(event), location, "tags (!…) are refused", "write the plain value")


def _scalar(text: str) -> Value:
    if text in _NULLS:
        return None
    if text in _BOOLEANS:
        return _BOOLEANS[text]
    if _INTEGER.fullmatch(text):
        return int(text)
    if _FLOAT.fullmatch(text):
        return float(text)
    return text


def _line(event: yaml.Event) -> int:
    if event.start_mark is None:
        raise AssertionError("the parser marks every event that it makes from text")
    return int(event.start_mark.line) + 1


def _problem(error: yaml.MarkedYAMLError) -> str:
    return ", ".join(part for part in (error.context, error.problem) if part)


def _yaml_hint(text: str, line: int) -> str:
    lines = text.splitlines()
    if line <= len(lines) and "\t" in lines[line - 1]:
        return "indent with spaces, not with tabs"
    return "look at this line and the one before it: a missing colon, quote or bracket"
