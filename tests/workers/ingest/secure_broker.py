"""What stands before real brokers, for tests: TLS and SASL, which the embedded broker has not.

A front on `localhost` ends TLS with certificates of a CA of its own, answers SaslHandshake and
SaslAuthenticate (PLAIN, SCRAM-SHA-256) as a broker does, and passes everything else on to the mock
cluster, which announces the front's address as its own. Kafka protocol guide: "Request and
response headers", API keys 17, 18, 36; RFC 4616 (PLAIN), RFC 5802 and 7677 (SCRAM).
"""

from __future__ import annotations

import base64
import contextlib
import ctypes
import datetime as dt
import hashlib
import hmac
import ipaddress
import secrets
import socket
import ssl
import struct
import threading

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

SASL_HANDSHAKE, API_VERSIONS, SASL_AUTHENTICATE = 17, 18, 36
UNSUPPORTED_MECHANISM, AUTHENTICATION_FAILED = 33, 58
FIRST_FLEXIBLE = 3  # version of ApiVersions
ITERATIONS = 4096
DAY = dt.timedelta(days=1)


class Authority:
    """A certificate authority; `path` is the file that its clients trust."""

    def __init__(self, directory, name="authority"):
        self._directory = directory
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        now = dt.datetime.now(dt.UTC)
        made = self._builder(self._name, self._key, now - DAY, now + DAY)
        made = made.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        self.path = directory / f"{name}.pem"
        signed = made.sign(self._key, hashes.SHA256())  # by itself
        self.path.write_bytes(signed.public_bytes(serialization.Encoding.PEM))

    def _builder(self, subject, key, since, until):
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(since)
            .not_valid_after(until)
        )

    def server(self, host="localhost", *, expired=False, clients=None):
        """Return a server's TLS context with a certificate for `host`.

        `clients`: the authority whose certificates clients must show.
        """
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.certificate(host, expired=expired))
        if clients is not None:
            context.verify_mode = ssl.CERT_REQUIRED
            context.load_verify_locations(clients.path)
        return context

    def certificate(self, host, *, expired=False):
        """Return the path of a new key and its certificate."""
        now = dt.datetime.now(dt.UTC)
        since, until = (now - DAY, now - DAY / 2) if expired else (now - DAY / 2, now + DAY)
        names = [x509.DNSName(host)]
        if host == "localhost":
            names.append(x509.IPAddress(ipaddress.ip_address("127.0.0.1")))
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host)])
        made = self._builder(subject, key, since, until)
        made = made.add_extension(x509.SubjectAlternativeName(names), critical=False)
        signed = made.sign(self._key, hashes.SHA256())
        path = self._directory / f"{secrets.token_hex(4)}.pem"
        path.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
            + signed.public_bytes(serialization.Encoding.PEM)
        )
        return path


class SecureFront:
    """Listens on `localhost`; `users` (name: password) are let in, all where it is None.

    `options` is what a client needs, in librdkafka's words; `context` None: without TLS. What
    clients have sent is in `seen`.
    """

    def __init__(self, cluster, context=None, options=(), users=None):
        host, _, port = cluster.bootstrap_servers.partition(":")
        self._behind = host, int(port)
        self.context, self.options, self.users = context, dict(options), users
        self.seen = []  # bytes a connection
        self.refused = 0  # who did not know the password
        self._clients = set()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.bootstrap_servers = f"localhost:{self.port}"
        announce = cluster._library.rd_kafka_mock_broker_set_host_port
        announce.argtypes = [ctypes.c_void_p, ctypes.c_int32, ctypes.c_char_p, ctypes.c_int]
        assert announce(cluster._cluster, 1, b"localhost", self.port) == 0
        threading.Thread(target=self._accept, daemon=True).start()

    def change(self, *, context=None, users=None):
        """Be another one from now on, also for those who are connected."""
        self.context, self.users = context or self.context, users or self.users
        for client in tuple(self._clients):
            with contextlib.suppress(OSError):
                client.shutdown(socket.SHUT_RDWR)

    def close(self):
        """Listen no longer; connections end with their clients."""
        self._listener.close()

    def _accept(self):
        with contextlib.suppress(OSError):
            while True:
                plain, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(plain,), daemon=True).start()

    def _serve(self, plain):
        self._clients.add(plain)
        with (
            contextlib.suppress(OSError, EOFError),
            self.context.wrap_socket(plain, server_side=True) if self.context else plain as client,
            socket.create_connection(self._behind) as broker,
        ):
            self._clients.add(client)
            if self.users is None or _Session(self, client, broker).lets_in():
                threading.Thread(target=_copy, args=(broker, client), daemon=True).start()
                self.seen.append(bytearray())
                _copy(client, broker, self.seen[-1])


def _copy(source, sink, seen=None):
    with contextlib.suppress(OSError):
        while data := source.recv(1 << 16):
            if seen is not None:
                seen += data
            sink.sendall(data)
    for each in (source, sink):
        with contextlib.suppress(OSError):
            each.shutdown(socket.SHUT_RDWR)


class _Session:
    """The beginning of a connection: requests are answered one by one until it is let in."""

    def __init__(self, front, client, broker):
        self._front, self._client, self._broker = front, client, broker
        self._mechanism = ""
        self._scram = None

    def lets_in(self):
        """Answer until the client has shown who it is; false where it could not."""
        while True:
            request = _frame(self._client)
            key, version, correlation, length = struct.unpack_from(">hhih", request)
            body = request[10 + max(0, length) :]
            if key == API_VERSIONS:
                self._broker.sendall(struct.pack(">i", len(request)) + request)
                answer = _with_sasl(_frame(self._broker), version)
            elif key == SASL_HANDSHAKE:
                self._mechanism = body[2:].decode()
                known = self._mechanism in {"PLAIN", "SCRAM-SHA-256"}
                code = 0 if known else UNSUPPORTED_MECHANISM
                mechanisms = b"".join(_text(name) for name in ("PLAIN", "SCRAM-SHA-256"))
                answer = struct.pack(">ihi", correlation, code, 2) + mechanisms
            elif key == SASL_AUTHENTICATE:
                data, done = self._step(body[4:])
                answer = struct.pack(">i", correlation)
                if data is None:
                    self._front.refused += 1
                    why = _text("Authentication failed: Invalid username or password")
                    answer += struct.pack(">h", AUTHENTICATION_FAILED) + why + struct.pack(">i", 0)
                else:
                    answer += struct.pack(">hhi", 0, -1, len(data)) + data
                self._client.sendall(struct.pack(">i", len(answer)) + answer)
                if data is None or done:
                    return done
                continue
            else:
                return False  # a request before authentication: a broker closes
            self._client.sendall(struct.pack(">i", len(answer)) + answer)

    def _step(self, data):
        """Take a message of the mechanism; gives the answer (None: refused) and whether it ends."""
        if self._mechanism == "PLAIN":
            _, user, password = data.decode().split("\0")
            fits = secrets.compare_digest(self._front.users.get(user, ""), password)
            return (b"" if fits and password else None), fits and bool(password)
        if self._scram is None:
            self._scram = _Scram(self._front.users, data.decode())
            return self._scram.challenge.encode(), False
        found = self._scram.verify(data.decode())
        return (found.encode() if found else None), bool(found)


class _Scram:
    """The server's side of SCRAM-SHA-256."""

    def __init__(self, users, first):
        self._first = first.partition(",,")[2]
        fields = dict(part.split("=", 1) for part in self._first.split(","))
        self._password = users.get(fields["n"], secrets.token_hex())
        self._salt = secrets.token_bytes(16)
        self._nonce = fields["r"] + secrets.token_hex(8)
        salt = base64.b64encode(self._salt).decode()
        self.challenge = f"r={self._nonce},s={salt},i={ITERATIONS}"

    def verify(self, final):
        """Check the client's proof and give the server's; empty where it is wrong."""
        without, _, proof = final.rpartition(",p=")
        salted = hashlib.pbkdf2_hmac("sha256", self._password.encode(), self._salt, ITERATIONS)
        key = hmac.digest(salted, b"Client Key", "sha256")
        said = f"{self._first},{self.challenge},{without}".encode()
        signature = hmac.digest(hashlib.sha256(key).digest(), said, "sha256")
        shown = bytes(a ^ b for a, b in zip(base64.b64decode(proof), signature, strict=True))
        if f"r={self._nonce}" not in without or not hmac.compare_digest(shown, key):
            return ""
        server = hmac.digest(hmac.digest(salted, b"Server Key", "sha256"), said, "sha256")
        return f"v={base64.b64encode(server).decode()}"


def _frame(connection):
    """Read one size-delimited message. Raises EOFError."""
    (size,) = struct.unpack(">i", _exactly(connection, 4))
    return _exactly(connection, size)


def _exactly(connection, size):
    data = b""
    while len(data) < size:
        piece = connection.recv(size - len(data))
        if not piece:
            raise EOFError
        data += piece
    return data


def _text(text):
    return struct.pack(">h", len(text)) + text.encode()


def _with_sasl(answer, version):
    """Put the two SASL requests into an ApiVersions response (correlation id, error, keys)."""
    if version < FIRST_FLEXIBLE:
        (count,) = struct.unpack_from(">i", answer, 6)
        added = struct.pack(">hhhhhh", SASL_HANDSHAKE, 0, 1, SASL_AUTHENTICATE, 0, 0)
        at = 10 + 6 * count
        return answer[:6] + struct.pack(">i", count + 2) + answer[10:at] + added + answer[at:]
    count = answer[6] - 1
    added = struct.pack(">hhhBhhhB", SASL_HANDSHAKE, 0, 1, 0, SASL_AUTHENTICATE, 0, 0, 0)
    at = 7 + 7 * count
    return answer[:6] + bytes([count + 3]) + answer[7:at] + added + answer[at:]
