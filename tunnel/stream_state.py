"""
The states of a stream: one table, and what is not in it is an error (SPEC.md §5).

The table is seen from one end; the other end's is the mirror image. A direction that has ended by FINISH
leaves the other one open; RESET ends both. What becomes of an input that is not in the table depends on who
gave it: from the peer it is a stream error (SPEC.md §8), from this end's own code a mistake in the program.

FINISH counts as sent when it has left the mux, behind its stream's data. In CLOSED the stream is forgotten;
frames that crossed its end on the way are dropped.
"""

from enum import IntEnum
from typing import Final


class State(IntEnum):
    """Where a stream stands."""

    IDLE = 0  # its number was not used yet
    OPEN = 1  # both directions carry data
    HALF_CLOSED_LOCAL = 2  # this end has finished
    HALF_CLOSED_REMOTE = 3  # the peer has finished
    CLOSED = 4


class Input(IntEnum):
    """What can happen to it."""

    OPEN_SENT = 0
    OPEN_RECEIVED = 1
    DATA_SENT = 2
    DATA_RECEIVED = 3
    WINDOW_SENT = 4
    WINDOW_RECEIVED = 5
    RETURN_SENT = 6
    RETURN_RECEIVED = 7
    FINISH_SENT = 8
    FINISH_RECEIVED = 9
    RESET_SENT = 10
    RESET_RECEIVED = 11


TRANSITIONS: Final[dict[tuple[State, Input], State]] = {
    (State.IDLE, Input.OPEN_SENT): State.OPEN,
    (State.IDLE, Input.OPEN_RECEIVED): State.OPEN,
    #
    (State.OPEN, Input.DATA_SENT): State.OPEN,
    (State.OPEN, Input.DATA_RECEIVED): State.OPEN,
    (State.OPEN, Input.WINDOW_SENT): State.OPEN,
    (State.OPEN, Input.WINDOW_RECEIVED): State.OPEN,
    (State.OPEN, Input.RETURN_SENT): State.OPEN,
    (State.OPEN, Input.RETURN_RECEIVED): State.OPEN,
    (State.OPEN, Input.FINISH_SENT): State.HALF_CLOSED_LOCAL,
    (State.OPEN, Input.FINISH_RECEIVED): State.HALF_CLOSED_REMOTE,
    (State.OPEN, Input.RESET_SENT): State.CLOSED,
    (State.OPEN, Input.RESET_RECEIVED): State.CLOSED,
    # This end has finished: it takes data and gives credit. The peer's last credit may still be on its way.
    (State.HALF_CLOSED_LOCAL, Input.DATA_RECEIVED): State.HALF_CLOSED_LOCAL,
    (State.HALF_CLOSED_LOCAL, Input.WINDOW_SENT): State.HALF_CLOSED_LOCAL,
    (State.HALF_CLOSED_LOCAL, Input.WINDOW_RECEIVED): State.HALF_CLOSED_LOCAL,
    (State.HALF_CLOSED_LOCAL, Input.RETURN_RECEIVED): State.HALF_CLOSED_LOCAL,
    (State.HALF_CLOSED_LOCAL, Input.FINISH_RECEIVED): State.CLOSED,
    (State.HALF_CLOSED_LOCAL, Input.RESET_SENT): State.CLOSED,
    (State.HALF_CLOSED_LOCAL, Input.RESET_RECEIVED): State.CLOSED,
    # The peer has finished: it needs no credit any more, and has none to give back.
    (State.HALF_CLOSED_REMOTE, Input.DATA_SENT): State.HALF_CLOSED_REMOTE,
    (State.HALF_CLOSED_REMOTE, Input.WINDOW_RECEIVED): State.HALF_CLOSED_REMOTE,
    (State.HALF_CLOSED_REMOTE, Input.RETURN_SENT): State.HALF_CLOSED_REMOTE,
    (State.HALF_CLOSED_REMOTE, Input.FINISH_SENT): State.CLOSED,
    (State.HALF_CLOSED_REMOTE, Input.RESET_SENT): State.CLOSED,
    (State.HALF_CLOSED_REMOTE, Input.RESET_RECEIVED): State.CLOSED,
    # Frames that crossed the end of the stream on the way.
    (State.CLOSED, Input.DATA_RECEIVED): State.CLOSED,
    (State.CLOSED, Input.WINDOW_RECEIVED): State.CLOSED,
    (State.CLOSED, Input.RETURN_RECEIVED): State.CLOSED,
    (State.CLOSED, Input.FINISH_RECEIVED): State.CLOSED,
    (State.CLOSED, Input.RESET_RECEIVED): State.CLOSED,
}

# The same, as a lookup without a hash: it is made for every frame.
_NEXT: Final[tuple[tuple[State | None, ...], ...]] = tuple(
    tuple(TRANSITIONS.get((state, happening)) for happening in Input) for state in State
)


def next_state(state: State, happening: Input) -> State | None:
    """Return the state that follows, or None when the table does not have it."""
    return _NEXT[state][happening]


def states_unmoved_by(happening: Input) -> tuple[bool, ...]:
    """Say for each state whether the table has the input there and stays: asked for every frame of data."""
    return tuple(next_state(state, happening) is state for state in State)


def markdown_table() -> str:
    """Return the table as SPEC.md shows it, one row for each input; an empty cell is an error."""
    rows = [["input", *(state.name for state in State)], ["---"] * (len(State) + 1)]
    for happening in Input:
        targets = (next_state(state, happening) for state in State)
        rows.append([happening.name, *("" if target is None else target.name for target in targets)])
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)
