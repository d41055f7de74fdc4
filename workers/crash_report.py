"""What is known about a death, as one JSON file an operator can open.

Written by a worker about itself (an exception) or by the supervisor about a hung one, before it
is killed. Written whole or not at all: under a temporary name, then renamed.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any


def write_report(directory: Path, worker: str, pid: int, content: dict[str, Any]) -> Path:
    """Write `content` (JSON values) and give the path; raises OSError where that fails."""
    directory.mkdir(parents=True, exist_ok=True)
    stamp = time.strftime("%Y%m%dT%H%M%S", time.gmtime())
    path = directory / f"{worker}-{stamp}-{pid}.json"
    temporary = path.with_suffix(".tmp")
    head = {"worker": worker, "pid": pid, "at": stamp}
    temporary.write_text(json.dumps({**head, **content}, indent=1, default=str), encoding="utf-8")
    os.replace(temporary, path)  # noqa: PTH105 - the atomic one
    return path


def stack_file(directory: Path, worker: str, pid: int) -> Path:
    """Give the file into which a worker dumps its stacks when it is asked to (SIGUSR2)."""
    return directory / f".stack-{worker}-{pid}"


def reported_error(directory: Path, worker: str, pid: int) -> str:
    """Give the error line of the report that process `pid` wrote about itself; empty: none."""
    for path in sorted(directory.glob(f"{worker}-*-{pid}.json"), reverse=True):
        error = json.loads(path.read_text(encoding="utf-8")).get("error", "")
        return f": {error}" if error else ""
    return ""
