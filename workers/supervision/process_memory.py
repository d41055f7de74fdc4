"""How much memory is a process's own: what a limit is about. The mesh's pages are not."""

from __future__ import annotations

import re
from pathlib import Path

_OWN = re.compile(r"^(?:RssAnon|VmSwap):\s+(\d+) kB$", re.MULTILINE)


def private_bytes(pid: int) -> int:
    """Give the anonymous memory of a process, resident and swapped, in bytes; 0: it is gone."""
    try:
        text = Path(f"/proc/{pid}/status").read_text(encoding="latin-1")
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return 1024 * sum(int(kilobytes) for kilobytes in _OWN.findall(text))
