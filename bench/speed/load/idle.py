"""
A load program: opens connections, makes one call on each, and then holds them without a word.

Blocking sockets, one after the other: an event loop would hold a buffer of a quarter of a megabyte for each.
"""

import select
import ssl

from bench.speed.load.callers import Caller, LoadFailed, entrance_from_json
from bench.speed.load.programs import read_task, report


def main() -> None:
    """Open as many as the task says, report, wait for a word, and report how many are lost by then."""
    task = read_task()
    caller = Caller(entrance_from_json(task["entrance"]))
    held: list[ssl.SSLSocket] = []
    try:
        for _ in range(task["streams"]):
            held.append(caller.call(source=task["source"]))
    except (OSError, LoadFailed) as error:
        report(failed=f"stream {len(held) + 1} of {task['streams']}: {error}")
        return
    report(held=len(held))
    if read_task():
        report(lost=_lost(held))
        read_task()


def _lost(held: list[ssl.SSLSocket]) -> int:
    """Count those on which something came: nothing is due, so it is an end."""
    poll = select.poll()
    for connection in held:
        poll.register(connection, select.POLLIN | select.POLLHUP)
    return len(poll.poll(0))


if __name__ == "__main__":
    main()
