"""Writers that are killed while they publish, and whether a reader and a new writer get through."""

from __future__ import annotations

import gc
import os
import signal
import time
from collections.abc import Callable
from typing import Any

from mesh_peers import FORK, SIZE, MpQueue, Peer
from mesh_turns import pin


def in_child(body: Callable[[], None], processor: int) -> Any:
    """Run `body` in a forked process on a processor of its own."""

    def run() -> None:
        gc.disable()
        pin(processor)
        body()

    process = FORK.Process(target=run, daemon=True)
    process.start()
    return process


def killed(write: Callable[[int], None], read: Callable[[], bool], trials: int) -> int:
    """SIGKILL a publishing process `trials` times; how often a reader then hung or saw nonsense."""
    wrong = 0
    for trial in range(trials):
        started, tell = FORK.Pipe(duplex=False)

        def writer(tell: Any = tell, trial: int = trial) -> None:
            write(trial)
            tell.send("x")
            for n in range(1 << 60):
                write(n)

        victim = in_child(writer, 0)
        started.recv()
        time.sleep(0.002 + 0.0001 * (trial % 17))
        os.kill(victim.pid, signal.SIGKILL)
        victim.join()

        def check() -> None:
            os._exit(0 if read() else 1)

        reader = FORK.Process(target=check, daemon=True)
        reader.start()
        reader.join(2.0)
        wrong += reader.exitcode != 0
        if reader.exitcode is None:
            reader.kill()
        reader.join()
    return wrong


def usable(peer: Peer) -> bool:
    """Whether a reader gets whole values and a new writer gets through."""
    if isinstance(peer, MpQueue):
        peer.write(b"new" * 8)
        while (value := peer.read()) != b"new" * 8:
            if value is None or value[:8] != value[-8:]:
                return False
        return True
    value = peer.read()
    peer.write(bytes(SIZE))
    return value is not None and value[:8] == value[-8:]
