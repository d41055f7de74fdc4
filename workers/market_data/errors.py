"""What is wrong with a file, in one line: where, what was expected, what was found, the remedy."""

from __future__ import annotations

from pathlib import Path


class MarketDataError(Exception):
    """Recorded market data cannot be read."""

    def __init__(
        self,
        path: Path,
        *,
        found: str,
        expected: str,
        remedy: str,
        member: str = "",
        line: int = 0,
    ) -> None:
        """Keep the parts; the text is made of them. `line` counts from 1; 0 = the file as such."""
        self.path, self.member, self.line = path, member, line
        self.found, self.expected, self.remedy = found, expected, remedy
        place = f"{path}"
        if member:
            place += f": member {member!r}"
        if line:
            place += f": line {line}"
        super().__init__(f"{place}: {found}; expected {expected}; {remedy}")
