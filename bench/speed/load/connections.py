"""
A load program: one call for each connection, as fast as one blocking caller can, for some seconds.

Several run at once. Each waits for the word to start, so that no interpreter starts inside the measurement.
"""

import time

from bench.speed.load.callers import (
    LoadFailed,
    caller_context,
    connect,
    entrance_from_json,
    read_answer,
    request_bytes,
)
from bench.speed.load.programs import read_task, report


def main() -> None:
    """Make connections for as long as the task says, and report how many."""
    task = read_task()
    entrance = entrance_from_json(task["entrance"])
    mutual = bool(task["mutual"])
    context = caller_context(entrance, mutual=mutual)
    request = request_bytes(entrance, keep=False, mutual=mutual)
    report(ready=True)
    if not read_task():
        return
    made = 0
    began = time.monotonic()
    while time.monotonic() - began < task["seconds"]:
        try:
            with connect(entrance, context, mutual=mutual) as connection:
                connection.sendall(request)
                read_answer(connection)
        except (OSError, LoadFailed) as error:
            report(failed=f"connection {made + 1}: {error}")
            return
        made += 1
    report(made=made, seconds=time.monotonic() - began)


if __name__ == "__main__":
    main()
