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
KINDS: Final = {KafkaError._AUTHENTICATION: "authentication", KafkaError._SSL: "tls"}  # noqa: SLF001 - public in librdkafka
_REMEDY: Final = {
    "authentication": "check sasl.mechanism, sasl.username and sasl.password in kafka.options",
    "tls": "check ssl.ca.location and ssl.certificate.location in kafka.options, the host name in "
    "kafka.bootstrap_servers, and the certificate of the broker",
}
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
