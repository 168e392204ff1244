"""
What the files have in common: the strict model under every section, and the ``log:`` section.

The text below a field is its description for the operator: docs/configuration.md and the JSON Schemas are
made of these, so they say what the key means, not how it is held.
"""

from typing import Literal

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """A mapping in the file: unknown keys are errors, no value is coerced, nothing changes after loading."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        strict=True,
        arbitrary_types_allowed=True,
        use_attribute_docstrings=True,
    )


class LogConfig(Section):
    """How much is logged on standard error, and in which form."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    """The least that is worth a line."""
    format: Literal["auto", "text", "json"] = "auto"
    """``auto`` is text on a terminal and JSON, one object a line, anywhere else."""
