"""
A load program: one call for each connection, as fast as one blocking caller can, for some seconds.

Several run at once. Each waits for the word to start, so that no interpreter starts inside the measurement.
"""

import time

from bench.speed.load.callers import Caller, LoadFailed, entrance_from_json
from bench.speed.load.programs import read_task, report


def main() -> None:
    """Make connections for as long as the task says, and report how many."""
    task = read_task()
    caller = Caller(entrance_from_json(task["entrance"]), mutual=bool(task["mutual"]), keep=False)
    report(ready=True)
    if not read_task():
        return
    made = 0
    began = time.monotonic()
    while time.monotonic() - began < task["seconds"]:
        try:
            caller.call().close()
        except (OSError, LoadFailed) as error:
            report(failed=f"connection {made + 1}: {error}")
            return
        made += 1
    report(made=made, seconds=time.monotonic() - began)


if __name__ == "__main__":
    main()
