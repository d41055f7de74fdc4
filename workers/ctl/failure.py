"""Exit codes of commands, and the error that ends a command with one line of text."""

from __future__ import annotations

from enum import IntEnum


class Exit(IntEnum):
    """Exit codes of `meshctl`; 64 and 78 are EX_USAGE and EX_CONFIG of sysexits.h."""

    HEALTHY = 0
    DEGRADED = 1
    DOWN = 2
    USAGE = 64
    CONFIGURATION = 78


class CommandFailed(Exception):
    """A command cannot do its work; the text names the problem, the place and the remedy."""

    def __init__(self, text: str, code: int = Exit.DEGRADED) -> None:
        """Store the text for the user and the exit code of the process."""
        super().__init__(text)
        self.code = code
