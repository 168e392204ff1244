"""
Programs that are measured: processes with many descriptors, whose children count as theirs.
"""

import resource
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.harness.child_process import ChildProcess


class Program(ChildProcess):
    """
    One running program; see ``ChildProcess``.
    """

    def __init__(
        self,
        name: str,
        arguments: Sequence[str | Path],
        *,
        folder: Path,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        # Ten thousand streams need descriptors, and not every peer raises its own limit.
        self.descriptor_limit()
        super().__init__(name, arguments, folder=folder, environment=environment)

    @staticmethod
    def descriptor_limit() -> int:
        """Raise this process's limit, which programs inherit, to the hard one and return it."""
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        return hard
