"""Notifications to the service manager (sd_notify(3)): ready, status, reloading, watchdog, stop.

Without a manager nothing is sent. Only the daemon's own loop feeds the watchdog.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time


def sd_notify(state: str) -> bool:
    """Send `state` to the service manager; False where there is none or it does not listen."""
    address = os.environ.get("NOTIFY_SOCKET", "")  # set by systemd, not a setting of ours
    if not address:
        return False
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as notify,
        contextlib.suppress(OSError),  # a manager that restarts itself: the next message will do
    ):
        notify.setblocking(False)
        notify.connect(f"\0{address[1:]}" if address.startswith("@") else address)
        notify.send(state.encode())
        return True
    return False


class Systemd:
    """The connection to systemd: what changed is sent once, the watchdog fed in time."""

    def __init__(self) -> None:
        """Read the watchdog's period, which systemd sets for its child."""
        usec = os.environ.get("WATCHDOG_USEC", "")
        mine = os.environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        self._feed_s = int(usec) / 4e6 if usec.isdigit() and mine else float("inf")
        self._fed_at = 0.0
        self._status = ""
        self._ready = False

    def status(self, text: str) -> None:
        """Send what the daemon does, as one line."""
        if text != self._status:
            self._status = text
            sd_notify(f"STATUS={text}")

    def ready(self) -> None:
        """Send, once after each start or reload, that the service is ready."""
        if not self._ready:
            self._ready = sd_notify(f"READY=1\nMAINPID={os.getpid()}") or True

    def reloading(self) -> None:
        """Send that the configuration or the program is being replaced; `ready` ends it."""
        self._ready = False
        now = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        sd_notify(f"RELOADING=1\nMONOTONIC_USEC={now}")

    @staticmethod
    def stopping() -> None:
        """Send that the end has begun."""
        sd_notify("STOPPING=1")

    def feed(self, now: float) -> None:
        """Feed the watchdog, four times a period; `now` is monotonic seconds."""
        if now - self._fed_at >= self._feed_s:
            self._fed_at = now
            sd_notify("WATCHDOG=1")
