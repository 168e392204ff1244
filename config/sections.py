"""What the files have in common: the strict model under every section, and the ``log:`` section."""

from typing import Literal

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """A mapping in the file: unknown keys are errors, no value is coerced, nothing changes after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, arbitrary_types_allowed=True)


class LogConfig(Section):
    """
    How much is logged, and in which form.

    ``auto`` is text on a terminal and JSON, one object a line, anywhere else.
    """

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["auto", "text", "json"] = "auto"
