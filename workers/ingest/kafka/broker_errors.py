"""Why brokers refuse this host: what librdkafka says, made stable and precise.

librdkafka has one text for every certificate that it cannot accept. Which of the reasons it is
(not trusted, expired, another host's) is found by looking at the certificate once more.
"""

from __future__ import annotations

import re
import socket
import ssl
from collections.abc import Mapping
from typing import Final

from confluent_kafka import KafkaError

LOOK_S: Final = 2.0
FENCED: Final = KafkaError.FENCED_INSTANCE_ID
KINDS: Final = {
    KafkaError._AUTHENTICATION: "authentication",  # noqa: SLF001 - public in librdkafka
    KafkaError._SSL: "tls",  # noqa: SLF001 - as above
    KafkaError._FATAL: "fatal",  # noqa: SLF001 - as above
    FENCED: "fenced",
}
#: after these a client gives nothing any more, whatever the brokers do
FINAL: Final = {"fatal", "fenced"}
_REMEDY: Final = {
    "authentication": "check sasl.mechanism, sasl.username and sasl.password, or "
    "sasl.oauthbearer.*, in kafka.options",
    "tls": "check ssl.ca.location and ssl.certificate.location in kafka.options, the host name in "
    "kafka.bootstrap_servers, and the certificate of the broker",
    "fenced": "another member of kafka.group has the same kafka.instance: give each host its own",
    "fatal": "librdkafka has given up this client: one is made anew",
}
_FENCED_TEXT: Final = KafkaError(FENCED).str()  # "Broker: Static consumer fenced by ..."
_ALERT: Final = " alert "  # of TLS, as OpenSSL names them
_PASSING: Final = re.compile(r" \(after \d+ms in state \w+\)")
_ADDRESS: Final = re.compile(r"://(?:\[(?P<six>[^]]+)\]|(?P<name>[^:/]+)):(?P<port>\d+)")


def refusal(error: KafkaError) -> tuple[str, str] | None:
    """Give kind and text of an error that means we are refused; None for every other."""
    kind = KINDS.get(error.code())
    if kind is None and _ALERT in error.str():  # our certificate: noticed once we are connected
        kind = "tls"
    if kind is None:
        return None
    if kind == "fatal" and _FENCED_TEXT in error.str():  # what poll() gives says it in words alone
        kind = "fenced"
    return kind, f"{_PASSING.sub('', error.str())}; {_REMEDY[kind]}"


def with_reason(text: str, options: Mapping[str, str]) -> str:
    """Say in a text of the kind `tls` what is wrong with the certificate, where that is seen."""
    address = _ADDRESS.search(text)
    if address is None or "certificate verify failed" not in text:
        return text
    host = address["six"] or address["name"]
    try:
        context = ssl.create_default_context(
            cafile=options.get("ssl.ca.location"), cadata=options.get("ssl.ca.pem")
        )
        with (
            socket.create_connection((host, int(address["port"])), LOOK_S) as plain,
            context.wrap_socket(plain, server_hostname=host),
        ):
            return text
    except ssl.SSLCertVerificationError as error:
        return f"{host}: {error.verify_message}: {text}"
    except OSError:  # gone meanwhile, or a folder of certificates
        return text
