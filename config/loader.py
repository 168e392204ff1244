"""
Files to models.

Whatever is wrong with a file is told as one ``ConfigError``: the file, the line, the key, what was wanted
and what to do. Unknown keys are told first, because a mistyped key often looks like a missing one as well.
"""

import difflib
import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar, get_args

from pydantic import BaseModel, ValidationError

from sallyport.config.document import Document, DocumentRefused, Location, read_document
from sallyport.config.errors import ConfigError
from sallyport.config.fields import FieldRefused, kind_of
from sallyport.config.gateway import GatewayConfig
from sallyport.config.relay import RelayConfig

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

_LARGEST = 1024 * 1024  # bytes; a configuration of a thousand servers is a tenth of it
_SYSTEM_FOLDER = Path("/etc/sallyport")

_Model = TypeVar("_Model", GatewayConfig, RelayConfig)


def load_gateway(path: Path | None = None) -> GatewayConfig:
    """
    Read a gateway's configuration.

    Args:
        path: the file; None looks for ``./gateway.yaml``, then ``/etc/sallyport/gateway.yaml``.

    Raises:
        ConfigError: the file cannot be read, or something in it is wrong.
    """
    return _load(GatewayConfig, path or _find("gateway.yaml"))


def load_relay(path: Path | None = None) -> RelayConfig:
    """
    Read a relay's configuration; see :func:`load_gateway`.

    Raises:
        ConfigError: the file cannot be read, or something in it is wrong.
    """
    return _load(RelayConfig, path or _find("relay.yaml"))


def read_config_text(path: Path) -> str:
    """
    Return the text of a configuration file that somebody may have got wrong in any way.

    The file is opened without waiting and judged by its descriptor, so that a FIFO does not hang us and
    nothing can be swapped between the check and the reading.

    Raises:
        ConfigError: it is missing, unreadable, no regular file, empty, larger than 1 MiB, or no UTF-8 text.
    """
    data = _read_file(path)
    if not data.strip():
        raise ConfigError(str(path), 0, "", "the file is empty", "start from config/samples")
    if b"\0" in data:
        raise ConfigError(str(path), 0, "", "the file is binary, not text", "is this the right file?")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ConfigError(str(path), line, "", "not UTF-8 text", "save the file as UTF-8") from error


def _read_file(path: Path) -> bytes:
    # Windows has the last of these flags and not the first.
    flags = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    try:
        descriptor = os.open(path, os.O_RDONLY | flags)
    except FileNotFoundError as error:
        raise ConfigError(str(path), 0, "", "no such file", "name the right one with --config") from error
    except OSError as error:
        message = f"cannot be opened: {error.strerror}"
        raise ConfigError(str(path), 0, "", message, "check its permissions") from error
    try:
        _refuse_special(path, os.fstat(descriptor).st_mode)
        with open(descriptor, "rb", closefd=False) as file:
            data = file.read(_LARGEST + 1)
    finally:
        os.close(descriptor)
    if len(data) > _LARGEST:
        raise ConfigError(str(path), 0, "", "larger than 1 MiB", "is this the right file?")
    return data


def _refuse_special(path: Path, mode: int) -> None:
    if stat.S_ISDIR(mode):
        raise ConfigError(str(path), 0, "", "is a directory", "name the file in it")
    if not stat.S_ISREG(mode):
        raise ConfigError(str(path), 0, "", "is no regular file", "name a file")


def _find(name: str) -> Path:
    candidates = (Path(name), _SYSTEM_FOLDER / name)
    for candidate in candidates:
        if candidate.exists():
            return candidate
    places = " or ".join(str(candidate) for candidate in candidates)
    raise ConfigError(name, 0, "", f"there is no {places}", "name one with --config FILE")


def _load(model: type[_Model], path: Path) -> _Model:
    try:
        document = read_document(read_config_text(path))
    except DocumentRefused as refused:
        key = _dotted(refused.location)
        raise ConfigError(str(path), refused.line, key, refused.message, refused.hint) from None
    if not isinstance(document.value, dict):
        message = f"wanted a mapping, found {kind_of(document.value)}"
        raise ConfigError(str(path), 1, "", message, "write `key: value` lines")
    if "path" in document.value:
        raise _unknown_key(model, document, path, ("path",))
    absolute = path.absolute()
    try:
        return model.model_validate({**document.value, "path": absolute}, context={"folder": absolute.parent})
    except ValidationError as error:
        raise _first_error(model, document, path, error.errors(include_url=False)) from None


def _first_error(
    model: type[BaseModel], document: Document, path: Path, errors: "Sequence[ErrorDetails]"
) -> ConfigError:
    """Pick the error to tell: unknown keys before others, then the order of the file."""
    first = min(errors, key=lambda e: (e["type"] != "extra_forbidden", document.line(e["loc"])))
    location = _place(document, first)
    if first["type"] == "extra_forbidden":
        return _unknown_key(model, document, path, location)
    message, hint = _words(first)
    return ConfigError(str(path), document.line(location), _dotted(location), message, hint)


def _place(document: Document, error: "ErrorDetails") -> Location:
    """Return the key to blame: a missing one too, but without what pydantic adds, such as ``[key]``."""
    location = error["loc"]
    if error["type"] != "missing":
        while location and location not in document.lines:
            location = location[:-1]
    return location


def _words(error: "ErrorDetails") -> tuple[str, str]:
    """Say in our words what pydantic found; never with the value itself, which may be a secret."""
    refused = error.get("ctx", {}).get("error")
    if isinstance(refused, FieldRefused):
        return refused.message, refused.hint
    kind = error["type"]
    if kind == "missing":
        return "is missing", ""
    if kind == "too_short":
        return "must not be empty", "name at least one"
    if kind == "literal_error":
        return f"wanted {error['ctx']['expected'].replace(chr(39), '')}", ""
    wanted = _WANTED.get(kind)
    if wanted is None:
        raise AssertionError(f"the models cannot produce {kind}: {error['msg']}")
    return f"wanted {wanted}, found {kind_of(error['input'])}", ""


_WANTED = {
    "model_type": "a mapping",
    "dict_type": "a mapping",
    "list_type": "a list",
    "bool_type": "true or false",
    "string_type": "text",
}


def _unknown_key(model: type[BaseModel], document: Document, path: Path, location: Location) -> ConfigError:
    known = _keys_at(model, location[:-1])
    close = difflib.get_close_matches(str(location[-1]), known, n=1, cutoff=0.65)
    hint = f"did you mean {close[0]!r}?" if close else f"known here: {', '.join(known)}"
    return ConfigError(str(path), document.line(location), _dotted(location), "unknown key", hint)


def _keys_at(model: type[BaseModel], location: Location) -> list[str]:
    """Return the keys that the section at ``location`` knows, by walking the models' annotations."""
    here: object = model
    for part in location:
        if isinstance(here, type) and issubclass(here, BaseModel):
            here = here.model_fields[str(part)].annotation
        else:
            here = _section_in(here)
    section = _section_in(here)
    if section is None:
        raise AssertionError(f"no section at {location}: only sections refuse unknown keys")
    return [name for name in section.model_fields if name != "path"]


def _section_in(annotation: object) -> type[BaseModel] | None:
    """Return the section in an annotation: itself, a mapping's value, or what may be left out."""
    for candidate in (annotation, *get_args(annotation)):
        if isinstance(candidate, type) and issubclass(candidate, BaseModel):
            return candidate
    return None


def _dotted(location: Location) -> str:
    return ".".join(map(str, location))
