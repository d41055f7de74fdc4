"""How a command ends: its exit codes, and the error that becomes one line and one of them."""

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
    """A command cannot do what was asked; the text says what, where and the remedy."""

    def __init__(self, text: str, code: int = Exit.DEGRADED) -> None:
        """Keep the exit code beside the text."""
        super().__init__(text)
        self.code = code
