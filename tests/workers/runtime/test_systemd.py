"""What the service manager hears, at a real notification socket."""

from __future__ import annotations

import os
import socket

import pytest

from workers.runtime.systemd import Systemd, sd_notify


@pytest.fixture
def manager(tmp_path, monkeypatch):
    """A notification socket, as systemd gives it to its child."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
        server.bind(str(tmp_path / "notify"))
        server.setblocking(False)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        yield server


def heard(server):
    """Everything that was said up to now."""
    said = []
    try:
        while True:
            said.append(server.recv(4096).decode())
    except BlockingIOError:
        return said


def test_without_a_manager_nothing_is_said(monkeypatch):
    """No socket, or one where nobody listens: False, and no error."""
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    assert sd_notify("READY=1") is False
    monkeypatch.setenv("NOTIFY_SOCKET", "/nowhere/at/all")
    assert sd_notify("READY=1") is False


def test_ready_once_and_again_after_a_reload(manager):
    """READY is said at the start and at the end of each reload, with the pid; status on change."""
    service = Systemd()
    service.ready()
    service.ready()
    service.status("fine")
    service.status("fine")
    assert heard(manager) == [f"READY=1\nMAINPID={os.getpid()}", "STATUS=fine"]
    service.reloading()
    service.ready()
    first, second = heard(manager)
    assert first.startswith("RELOADING=1\nMONOTONIC_USEC=")
    assert second.startswith("READY=1")


def test_watchdog_is_fed_four_times_a_period(manager, monkeypatch):
    """Looked at a hundred times a second, a watchdog of 2 s is fed twice a second."""
    monkeypatch.setenv("WATCHDOG_USEC", "2000000")
    service = Systemd()
    for hundredth in range(1, 301):
        service.feed(100.0 + hundredth / 100.0)
    assert heard(manager) == ["WATCHDOG=1"] * 6
    monkeypatch.setenv("WATCHDOG_PID", "1")
    Systemd().feed(1e9)
    assert heard(manager) == []
