"""Why brokers deny access: librdkafka's errors made stable and precise.

librdkafka has one text for every certificate that it cannot accept. Which of the reasons it is
(not trusted, expired, of another host) is found by checking the certificate once more.
"""

from __future__ import annotations

import json
import re
import socket
import ssl
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Final, NamedTuple

from confluent_kafka import KafkaError

CERTIFICATE_CHECK_S: Final = 2.0  # time-out of a connection that checks a certificate
FENCED: Final = KafkaError.FENCED_INSTANCE_ID
KINDS: Final = {
    KafkaError._AUTHENTICATION: "authentication",  # noqa: SLF001 - public in librdkafka
    KafkaError._SSL: "tls",  # noqa: SLF001 - as above
    KafkaError._FATAL: "fatal",  # noqa: SLF001 - as above
    FENCED: "fenced",
}
#: after these a client returns no message any more, whatever the brokers do
FINAL: Final = {"fatal", "fenced"}
_REMEDY: Final = {
    "authentication": "check sasl.mechanism, sasl.username and sasl.password, or "
    "sasl.oauthbearer.*, in kafka.options",
    "tls": "check ssl.ca.location and ssl.certificate.location in kafka.options, the host name in "
    "kafka.bootstrap_servers, and the certificate of the broker",
    "fenced": "another member of kafka.group has the same kafka.instance: give each host its own",
    "fatal": "librdkafka has given up this client; a new one is made",
}
_FENCED_TEXT: Final = KafkaError(FENCED).str()  # "Broker: Static consumer fenced by ..."
_ALERT: Final = " alert "  # of TLS, as OpenSSL names them
_RETRY_TIMES: Final = re.compile(r" \(after \d+ms in state \w+\)")
_ADDRESS: Final = re.compile(r"://(?:\[(?P<six>[^]]+)\]|(?P<name>[^:/]+)):(?P<port>\d+)")


class BrokerError(NamedTuple):
    """Why brokers deny access to this host, or why a client is unusable."""

    kind: str  # authentication, tls, fenced, fatal
    text: str  # with a remedy


def broker_error(error: KafkaError) -> BrokerError | None:
    """Return kind and text of an error that denies access; None for every other error."""
    kind = KINDS.get(error.code())
    if kind is None and _ALERT in error.str():  # our certificate: found once connected
        kind = "tls"
    if kind is None:
        return None
    if kind == "fatal" and _FENCED_TEXT in error.str():  # poll() returns it as text alone
        kind = "fenced"
    return BrokerError(kind, f"{_RETRY_TIMES.sub('', error.str())}; {_REMEDY[kind]}")


def with_reason(text: str, options: Mapping[str, str]) -> str:
    """Add to a text of the kind `tls` what is wrong with the certificate, where that is visible."""
    address = _ADDRESS.search(text)
    if address is None or "certificate verify failed" not in text:
        return text
    host = address["six"] or address["name"]
    try:
        context = ssl.create_default_context(
            cafile=options.get("ssl.ca.location"), cadata=options.get("ssl.ca.pem")
        )
        with (
            socket.create_connection((host, int(address["port"])), CERTIFICATE_CHECK_S) as plain,
            context.wrap_socket(plain, server_hostname=host),
        ):
            return text
    except ssl.SSLCertVerificationError as error:
        return f"{host}: {error.verify_message}: {text}"
    except OSError:  # gone meanwhile, or a folder of certificates
        return text


class BrokerHealth:
    """What librdkafka reports of the connections to the brokers.

    Attributes:
        errors: how often each error occurred, by its name; whoever reads them clears them.
        brokers_up: brokers that are connected.
        round_trip_ms: of requests, mean over the connected brokers.
    """

    def __init__(
        self,
        options: Mapping[str, str],
        expect: Callable[[float], AbstractContextManager[object]],
    ) -> None:
        """`options` are librdkafka's; `expect` is entered while a certificate is checked."""
        self._options, self._expect = options, expect
        self._error: BrokerError | None = None  # while no broker accepts this host
        self._reasons: dict[str, str] = {}  # by text: the text with the certificate's error
        self.errors: dict[str, int] = {}
        self.brokers_up = 0
        self.round_trip_ms = 0.0

    @property
    def is_over(self) -> bool:
        """Whether librdkafka has given this client up: no message comes any more."""
        return self._error is not None and self._error.kind in FINAL

    @property
    def is_denied(self) -> bool:
        """Whether the last error that denies access is still in force."""
        return self._error is not None

    def error(self) -> BrokerError | None:
        """Return why no broker accepts this host, or why this client is over.

        None where all is well, or where the brokers are merely absent.
        """
        if self._error is None or (self.brokers_up and not self.is_over):
            return None
        kind, text = self._error
        if text not in self._reasons:
            with self._expect(2 * CERTIFICATE_CHECK_S + 1.0):
                self._reasons[text] = with_reason(text, self._options)
        return BrokerError(kind, self._reasons[text])

    def connected(self) -> None:
        """Record that a broker has answered."""
        self.brokers_up, self._error = 1, None

    def on_error(self, error: KafkaError) -> None:
        """Count an error (callback `error_cb`)."""
        self.errors[error.name()] = self.errors.get(error.name(), 0) + 1
        if not self.is_over:  # else later errors are consequences
            self._error = broker_error(error) or self._error

    def on_statistics(self, text: str) -> None:
        """Update connections and round trips (callback `stats_cb`, STATISTICS.md of librdkafka)."""
        brokers = [b for b in json.loads(text)["brokers"].values() if b["nodeid"] >= 0]
        self.brokers_up = sum(broker["state"] == "UP" for broker in brokers)
        if self.brokers_up and not self.is_over:
            self._error = None
        times = [broker["rtt"]["avg"] for broker in brokers if broker["state"] == "UP"]
        self.round_trip_ms = sum(times) / len(times) / 1000 if times else 0.0
