"""The table of stream states: what any such table must fulfil."""

import pytest

from sallyport.tunnel.stream_state import TRANSITIONS, Input, State, next_state

LIVE = [State.OPEN, State.HALF_CLOSED_LOCAL, State.HALF_CLOSED_REMOTE]

MIRRORED_STATE = {
    State.IDLE: State.IDLE,
    State.OPEN: State.OPEN,
    State.HALF_CLOSED_LOCAL: State.HALF_CLOSED_REMOTE,
    State.HALF_CLOSED_REMOTE: State.HALF_CLOSED_LOCAL,
    State.CLOSED: State.CLOSED,
}


def mirrored(happening: Input) -> Input:
    """Return what the other end does, or sees, at the same frame."""
    name = happening.name
    return Input[name.replace("SENT", "RECEIVED") if "SENT" in name else name.replace("RECEIVED", "SENT")]


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("happening", Input)
def test_the_lookup_is_the_table(state: State, happening: Input) -> None:
    """The fast lookup says what the table says, and None for what is not in it."""
    assert next_state(state, happening) == TRANSITIONS.get((state, happening))


@pytest.mark.parametrize("state", LIVE)
@pytest.mark.parametrize("happening", [happening for happening in Input if "SENT" in happening.name])
def test_what_one_end_may_send_the_other_takes(state: State, happening: Input) -> None:
    """A frame that is right at its sender is right at a receiver in the mirrored state, and keeps them so."""
    after = next_state(state, happening)
    if after is not None:
        received = next_state(MIRRORED_STATE[state], mirrored(happening))
        assert received is not None
        assert received == MIRRORED_STATE[after]


@pytest.mark.parametrize("state", LIVE)
def test_reset_ends_every_live_state(state: State) -> None:
    """A stream can always be reset, from either end."""
    assert next_state(state, Input.RESET_SENT) is State.CLOSED
    assert next_state(state, Input.RESET_RECEIVED) is State.CLOSED


@pytest.mark.parametrize("state", State)
def test_nothing_leads_back(state: State) -> None:
    """A stream only ever goes on: no input leads to a state that lies before the present one."""
    rank = {
        State.IDLE: 0,
        State.OPEN: 1,
        State.HALF_CLOSED_LOCAL: 2,
        State.HALF_CLOSED_REMOTE: 2,
        State.CLOSED: 3,
    }
    for happening in Input:
        after = next_state(state, happening)
        if after is not None and after is not state:
            assert rank[after] > rank[state]


def test_finish_in_both_directions_closes() -> None:
    """The two FINISHes close a stream in whichever order they pass."""
    for order in ([Input.FINISH_SENT, Input.FINISH_RECEIVED], [Input.FINISH_RECEIVED, Input.FINISH_SENT]):
        state: State | None = State.OPEN
        for happening in order:
            assert state is not None
            state = next_state(state, happening)
        assert state is State.CLOSED


def test_nothing_is_sent_on_a_closed_stream() -> None:
    """In CLOSED every frame that may still arrive is taken without effect, and nothing is sent."""
    for happening in Input:
        if "SENT" in happening.name:
            assert next_state(State.CLOSED, happening) is None
        elif happening is not Input.OPEN_RECEIVED:
            assert next_state(State.CLOSED, happening) is State.CLOSED
