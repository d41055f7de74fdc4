"""A real MLflow server, and the network in front of it: slow, broken, lying, cut off."""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import socket
import subprocess
import sys
import threading
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from tests.daemons import until


class Server:
    """A real MLflow tracking server on a port of its own, started and killed at will."""

    def __init__(self, directory):
        self.directory = directory
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.uri = f"http://127.0.0.1:{self.port}"
        self.process = None

    def start(self):
        """Start it and wait until it answers."""
        command = [
            sys.executable,
            "-m",
            "mlflow",
            "server",
            "--host",
            "127.0.0.1",
            "--port",
            str(self.port),
            "--workers",
            "1",
            "--backend-store-uri",
            f"sqlite:///{self.directory}/server.db",
            "--artifacts-destination",
            str(self.directory),
        ]
        with (self.directory / "server.log").open("ab") as log:
            # its jobs would leave a store in /dev/shm when it is killed
            environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
            self.process = subprocess.Popen(
                command, stdout=log, stderr=log, start_new_session=True, env=environment
            )
        until("server", self.answers, 180.0)

    def answers(self):
        """Whether it is up."""
        with contextlib.suppress(OSError):
            return urllib.request.urlopen(f"{self.uri}/health", timeout=1).status == 200
        return False

    def signal(self, number):
        """Send a signal to all of its processes."""
        os.killpg(self.process.pid, number)
        if number == signal.SIGKILL:
            self.process.wait()


class Network(ThreadingHTTPServer):
    """What lies between the shipper and MLflow; `mode` says how it behaves, `seen` counts.

    pass, slow (seconds for each request), failing (503), page (200 with something that is no
    answer), cut (the server has done what was asked, its answer never arrives).
    """

    daemon_threads = True

    def __init__(self, target):
        """Forward to the port `target`; use it as a context."""
        super().__init__(("127.0.0.1", 0), Forward)
        self.target, self.mode, self.delay_s, self.seen = target, "pass", 0.0, 0
        self.uri = f"http://127.0.0.1:{self.server_address[1]}"
        self.stopping = threading.Event()

    def __enter__(self):
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_):
        self.stopping.set()
        self.shutdown()
        self.server_close()

    def handle_error(self, request, address):
        """A client that gave up is what this is about."""


class Forward(BaseHTTPRequestHandler):
    """One request."""

    protocol_version = "HTTP/1.1"

    def forward(self):
        """Treat it as the mode says."""
        network = self.server
        network.seen += 1
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if network.mode == "failing":
            return self.answer(503, b"<h1>Service Unavailable</h1>", "text/html")
        if network.mode == "page":
            return self.answer(200, b"<h1>Please log in</h1>", "text/html")
        if network.mode == "slow":
            network.stopping.wait(network.delay_s)
        connection = http.client.HTTPConnection("127.0.0.1", network.target, timeout=60)
        headers = {name: value for name, value in self.headers.items() if name != "Host"}
        connection.request(self.command, self.path, body, headers)
        found = connection.getresponse()
        content = found.read()
        connection.close()
        if network.mode == "cut":
            self.close_connection = True
            return None
        return self.answer(found.status, content, found.getheader("Content-Type", ""))

    def answer(self, status, content, kind):
        """Send it back."""
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = forward  # noqa: N815 - the base's names

    def log_message(self, *_):
        """Say nothing."""
