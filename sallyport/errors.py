"""
The errors of the command itself: its demo, its doctor and its bench.

    CommandError
     ├ DemoFailed         a hop of the demo did not come up, or did not answer
     └ MeasurementFailed  an end that was to be measured does not answer as it should
"""


class CommandError(Exception):
    """Root of this tree; ``hint`` says what to do and may be empty."""

    hint: str = ""


class DemoFailed(CommandError):
    """
    A hop of the demo failed.

    Args:
        hop: which one, such as ``gateway``.
        reason: what happened to it.
        log: the last lines that it logged.
    """

    def __init__(self, hop: str, reason: str, log: tuple[str, ...] = ()) -> None:
        super().__init__(hop, reason, log)
        self.hop = hop
        self.reason = reason
        self.log = log

    def __str__(self) -> str:
        lines = "".join(f"\n  {line}" for line in self.log)
        return f"{self.hop}: {self.reason}{lines}"


class MeasurementFailed(CommandError):
    """
    Something does not answer the harmless requests that ``bench`` makes.

    Args:
        what: a whole clause: which end, and what it did.
        hint: what helps; may be empty.
    """

    def __init__(self, what: str, *, hint: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.hint = hint

    def __str__(self) -> str:
        return self.what
