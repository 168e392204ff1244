"""How many connections each caller has."""

import os

from sallyport.gateway.attendance import Attendance, SharedCounts, clear_row, shared_table


def test_each_caller_has_his_own_part() -> None:
    """Who has too many is turned away, and others are not."""
    attendance = Attendance(2)
    assert [attendance.arrive("cert:alice") for _ in range(3)] == [True, True, False]
    assert attendance.arrive("cert:bob")
    assert (attendance.of("cert:alice"), attendance.of("cert:bob")) == (2, 1)


def test_a_place_is_free_again() -> None:
    """Whoever was turned away holds no place; whoever leaves gives one back."""
    attendance = Attendance(1)
    assert attendance.arrive("cert:alice")
    assert not attendance.arrive("cert:alice")
    attendance.leave("cert:alice")
    assert attendance.of("cert:alice") == 0
    assert attendance.arrive("cert:alice")


def test_nothing_is_kept_of_who_is_gone() -> None:
    """A million callers, one after the other, leave nothing behind; asking makes nothing either."""
    attendance = Attendance(1)
    for number in range(1000):
        assert attendance.arrive(f"cert:{number}")
        assert not attendance.arrive(f"cert:{number}")
        attendance.leave(f"cert:{number}")
        assert attendance.of(f"cert:{number}") == 0
    assert len(attendance) == 0


def workers(count: int, most: int) -> list[Attendance]:
    """Make that many workers of one gateway, each with a limit on what all of them have."""
    table = shared_table(count)
    return [Attendance(most, SharedCounts(table, row, b"key")) for row in range(count)]


def test_workers_count_together() -> None:
    """The limit is the gateway's, wherever the connections are; a place is free for all of them."""
    first, second = workers(2, 3)
    assert first.arrive("cert:alice")
    assert first.arrive("cert:alice")
    assert second.arrive("cert:alice")
    assert not first.arrive("cert:alice")
    assert not second.arrive("cert:alice")
    assert second.arrive("cert:bob")
    first.leave("cert:alice")
    assert second.arrive("cert:alice")
    assert (first.of("cert:alice"), second.of("cert:alice")) == (1, 2)


def test_a_worker_that_has_ended_counts_nobody() -> None:
    """Its callers are gone, also until another takes its place; what the others have still counts."""
    table = shared_table(2)
    dead, other = (Attendance(2, SharedCounts(table, row, b"key")) for row in range(2))
    assert dead.arrive("cert:alice")
    assert other.arrive("cert:alice")
    assert not other.arrive("cert:alice")
    clear_row(table, 0)
    assert other.arrive("cert:alice")
    other.leave("cert:alice")
    heir = Attendance(2, SharedCounts(table, 0, b"key"))
    assert heir.arrive("cert:alice")
    assert not heir.arrive("cert:alice")


def test_the_table_is_shared_by_processes() -> None:
    """What a child counts, its parent sees."""
    parent, child = workers(2, 1)
    pid = os.fork()
    if not pid:
        os._exit(0 if child.arrive("cert:alice") else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert not parent.arrive("cert:alice")
