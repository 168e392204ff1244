"""
What the configuration files may hold, for people and for editors, made from the models.

The models say it once: a key's type, its default, and the text below it. Here that becomes a JSON Schema,
which editors complete and check with, and the schema becomes the page of keys. Values are shown as they are
written in a file (``10m``, ``128MiB``), not as the program holds them.

A schema knows less than the loader: that a file exists, that an address is free or a name routable is found
by ``gateway check`` and at start.
"""

import json
from collections.abc import Iterator, Mapping
from typing import cast

from pydantic import BaseModel

from sallyport.config.gateway import GatewayConfig
from sallyport.config.relay import RelayConfig

Schema = dict[str, object]

# What one of the program's units is in the smallest written one, and the written ones.
_UNITS = {
    "duration": (1000, ((3_600_000, "h"), (60_000, "m"), (1000, "s"), (1, "ms"))),
    "size": (1, ((1024**3, "GiB"), (1024**2, "MiB"), (1024, "KiB"))),
}

# Defaults that are made at start, or that the program holds in another form than a file writes.
_MADE = {"tunnel.name": "this host's name", "keys": "`off`"}


_INTRODUCTION = """\
# Configuration

Every key of the two files. This page is made from the code by `make docs`.

A file is found by `--config FILE`, else in the working directory, else in `/etc/sallyport/`. Relative paths
are relative to the file that names them. An unknown key is an error that names the file, the line and the
nearest known key. Durations and sizes have a unit: `500ms`, `5s`, `10m`, `1h`; `64KiB`, `128MiB`, `1GiB`.

Editors that know JSON Schema complete and check the files: put [`gateway.schema.json`](gateway.schema.json)
or [`relay.schema.json`](relay.schema.json) beside yours, and on its first line
`# yaml-language-server: $schema=./gateway.schema.json`. Files to start from are in
[`config/samples`](../config/samples).
"""


def schema_of(model: type[BaseModel]) -> Schema:
    """Return the JSON Schema (2020-12) of a configuration file, with values as they are written there."""
    schema = _tidy(cast(Schema, model.model_json_schema()))
    # The file's own path is a field of the model and no key of the file.
    cast(Schema, schema["properties"]).pop("path", None)
    schema["required"] = [key for key in cast("list[str]", schema["required"]) if key != "path"]
    return schema


def schema_text(model: type[BaseModel], file: str) -> str:
    """Return the schema of a file as the text of ``docs/*.schema.json``."""
    schema = schema_of(model) | {"title": file, "description": f"The configuration file {file}."}
    whole = {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}
    return json.dumps(whole, indent=2, ensure_ascii=False) + "\n"


def keys_page() -> str:
    """Return the text of ``docs/configuration.md``."""
    gateway = "\n".join(_file_section(GatewayConfig, "gateway.yaml"))
    return "\n".join([_INTRODUCTION, gateway, *_file_section(RelayConfig, "relay.yaml")])


def keys_of(model: type[BaseModel]) -> Iterator[tuple[str, Schema, bool]]:
    """Yield each key that holds a value: its dotted name, its schema, and whether it must be there."""
    schema = schema_of(model)
    yield from _walk(schema, cast(Schema, schema.get("$defs", {})), "")


# -- the page -----------------------------------------------------------------------------------------


def _file_section(model: type[BaseModel], file: str) -> Iterator[str]:
    yield f"## {file}"
    yield ""
    yield "| key | value | default | meaning |"
    yield "| --- | --- | --- | --- |"
    for key, schema, is_required in keys_of(model):
        cells = (f"`{key}`", _kind(schema), _default(key, schema, is_required=is_required))
        yield f"| {' | '.join(cells)} | {schema.get('description', '')} |"
    yield ""


def _kind(schema: Schema) -> str:
    """Say what a value is: one of some words, a list, or what its kind is called."""
    if "anyOf" in schema:
        # The others are sections, whose keys have lines of their own.
        schema = cast("list[Schema]", schema["anyOf"])[0]
    words = schema.get("enum") or ([schema["const"]] if "const" in schema else None)
    if words:
        return ", ".join(f"`{word}`" for word in cast("list[str]", words))
    match schema.get("type"):
        case "array":
            return f"list: {_kind(cast(Schema, schema['items']))}"
        case "boolean":
            return "`true`, `false`"
    kind = str(schema.get("title", schema.get("type", "")))
    examples = cast("list[str]", schema.get("examples", []))
    return f"{kind}, `{examples[0]}`" if examples else kind


def _default(key: str, schema: Schema, *, is_required: bool) -> str:
    if is_required:
        return "*required*"
    if key in _MADE:
        return _MADE[key]
    default = schema.get("default")
    if default is None:
        return "none"
    return f"`{default}`" if isinstance(default, str) else f"`{json.dumps(default)}`"


def _walk(schema: Schema, sections: Schema, above: str) -> Iterator[tuple[str, Schema, bool]]:
    required = cast("list[str]", schema.get("required", []))
    for name, found in cast("dict[str, Schema]", schema["properties"]).items():
        key = above + name
        if (section := _section(found, sections)) is not None:
            yield from _walk(section, sections, f"{key}.")
        elif (entry := _section(found.get("additionalProperties"), sections)) is not None:
            yield from _walk(entry, sections, f"{key}.NAME.")
        else:
            yield key, found, name in required
            for choice in cast("list[Schema]", found.get("anyOf", [])):
                if (section := _section(choice, sections)) is not None:
                    yield from _walk(section, sections, f"{key}.")


def _section(schema: object, sections: Schema) -> Schema | None:
    """Return the section that a schema refers to; None for a value."""
    if isinstance(schema, Mapping) and "$ref" in schema:
        return cast(Schema, sections[str(schema["$ref"]).rpartition("/")[2]])
    return None


# -- the schema ---------------------------------------------------------------------------------------


def _tidy(schema: Schema) -> Schema:
    """Write a schema, and what is in it, as a reader of the file wants it."""
    tidied = {key: _tidy_any(value) for key, value in schema.items()}
    if "properties" in schema:
        # Keys of the file, whatever they are called, and not words of the schema.
        properties = cast("dict[str, Schema]", schema["properties"])
        tidied["properties"] = {key: _tidy(found) for key, found in properties.items()}
    if "anyOf" in tidied:
        tidied.pop("title", None)  # pydantic's, made of the key's name
        tidied |= _or_null(cast("list[Schema]", tidied.pop("anyOf")))
    if "description" in tidied:
        # Docstrings are written for people who read code, with their line ends and double quotes.
        tidied["description"] = " ".join(str(tidied["description"]).split()).replace("``", "`")
    default = tidied.get("default")
    if default is None or "$ref" in tidied:
        tidied.pop("default", None)  # an absent key, and a section whose keys say their own
    elif isinstance(default, (int, float)) and tidied.get("title") in _UNITS:
        tidied["default"] = written(default, str(tidied["title"]))
    return tidied


def _tidy_any(value: object) -> object:
    match value:
        case dict():
            return _tidy(value)
        case list():
            return [_tidy_any(each) for each in value]
        case _:
            return value


def _or_null(choices: list[Schema]) -> Schema:
    """Join pydantic's *this or null* into one schema, as far as it is that."""
    match choices:
        case [{"type": str(kind)} as value, {"type": "null"}]:
            return value | {"type": [kind, "null"]}
        case _:
            return {"anyOf": choices}


def written(value: float, kind: str) -> str:
    """Return seconds or bytes as a file writes them, in the largest unit that leaves a whole number."""
    scale, units = _UNITS[kind]
    number = round(value * scale)
    for unit, name in units:
        if number % unit == 0:
            return f"{number // unit}{name}"
    raise ValueError(f"{value} has no written form")
