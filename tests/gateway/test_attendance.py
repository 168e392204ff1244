"""How many connections each caller has."""

from sallyport.gateway.attendance import Attendance


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
