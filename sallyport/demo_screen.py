"""What the demo shows: the answer, and what the relay saw of it beside what the gateway saw."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from rich.columns import Columns
from rich.console import Console
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from sallyport.connector.snippets import Kind, LocalServer, snippet
from sallyport.processes import LogLine

_OF_EVERY_LINE = frozenset({"time", "level", "area", "event"})  # nothing about the call


@dataclass(frozen=True, slots=True)
class Answered:
    """A call that came back: what was called, what it said, how long it took, and who saw what of it."""

    what: str
    answer: str
    call_seconds: float
    total_seconds: float
    tunnel: str
    seen_by_relay: LogLine
    seen_by_gateway: LogLine


class _Console(Console):
    """A console whose reader may leave: an error, since ending the process would skip the clean-up."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError("the reader of standard output has left")


class Screen:
    """Standard output, in colour where it is a terminal."""

    def __init__(self) -> None:
        self._console = _Console(highlight=False, soft_wrap=False)

    @contextmanager
    def progress(self, step: str) -> Iterator[None]:
        """Say what is going on while the block runs; nothing remains of it."""
        with self._console.status(f"{step} …"):
            yield

    def show_answer(self, answered: Answered) -> None:
        """Show the call and what was seen of it on the way."""
        facts = Table.grid(padding=(0, 2))
        facts.add_column(style="dim")
        facts.add_column(overflow="fold")
        facts.add_row("called", answered.what)
        facts.add_row("answer", Text(answered.answer, style="bold green"))
        facts.add_row(
            "time", f"{answered.call_seconds * 1000:.0f} ms, {answered.total_seconds:.1f} s from nothing"
        )
        facts.add_row("tunnel", answered.tunnel)
        self._console.print(facts)
        width = self._console.width // 2
        relay = _what_was_seen(
            "the relay saw", "sizes, and TLS it has no key for", answered.seen_by_relay, width
        )
        gateway = _what_was_seen("the gateway saw", "who called what", answered.seen_by_gateway, width)
        self._console.print(Columns([relay, gateway], padding=0))

    def show_what_to_paste(self, server: LocalServer) -> None:
        """Show how an agent is told of the endpoint, and how the demo ends."""
        self._console.print(Text("give it to an agent:", style="dim"))
        found = snippet(Kind.CLAUDE_CODE, server)
        self._console.print(Text(f"# {found.place}"), soft_wrap=True)
        self._console.print(Text(found.text.rstrip()), soft_wrap=True)
        self._console.print(Text("Ctrl-C ends it and leaves nothing behind", style="dim"))


def _what_was_seen(who: str, in_short: str, line: LogLine, width: int) -> Panel:
    """Lay out one log line, field by field, as it was written."""
    fields = Table.grid(padding=(0, 1), expand=True)
    names = [name for name in line if name not in _OF_EVERY_LINE]
    fields.add_column(style="dim", no_wrap=True, min_width=max(map(len, names)))
    fields.add_column(overflow="ellipsis", no_wrap=True, ratio=1)
    for name in names:
        fields.add_row(name, str(line[name]))
    return Panel(fields, title=who, subtitle=in_short, width=width)
