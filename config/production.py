"""What a production host refuses to start with."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from config.problems import Problem, shown

if TYPE_CHECKING:
    from config.settings import Settings

_OTHERS = 0o007
_KAFKA = ("workers.ingest.", "workers.replayer.")
_BROKER = "workers.broker."
_SHIPPER = "workers.shipper."


def refusals(settings: Settings) -> Iterator[Problem]:
    """Every setting that is fine on a desk and a danger in production (none elsewhere)."""
    if settings.environment != "production":
        return
    if settings.debug:
        yield _refused("debug", settings.debug, "debugging shows internals", "set it to false")
    if settings.logging.level == "debug":
        reason = "debug logs show messages and addresses"
        yield _refused("logging.level", settings.logging.level, reason, "use info or warning")
    if settings.mesh.permissions & _OTHERS:
        reason = "every user of the host could read the mesh"
        yield _refused("mesh.mode", settings.mesh.mode, reason, "use 0700, or 0750 with a group")
    if any(spec.enabled and spec.worker.startswith(_KAFKA) for spec in settings.workers):
        yield from _plain_kafka(settings)
    if any(spec.enabled and spec.worker.startswith(_BROKER) for spec in settings.workers):
        reason = "the embedded broker keeps nothing on disk"
        yield _refused("workers", "broker", reason, "take it out and name real brokers")
    ships = any(spec.enabled and spec.worker.startswith(_SHIPPER) for spec in settings.workers)
    if ships and settings.tracking.uri.partition(":")[0] in {"", "sqlite"}:
        reason = "SQLite is a desk's database"
        yield _refused("tracking.uri", settings.tracking.uri, reason, "name an MLflow server")


def _plain_kafka(settings: Settings) -> Iterator[Problem]:
    """What would let market data travel unencrypted, or come from the embedded broker."""
    kafka = settings.kafka
    for key in ("bootstrap_servers", "registry_url"):
        if (value := getattr(kafka, key)) == "mesh":
            reason = "`mesh` is the embedded broker"
            yield _refused(f"kafka.{key}", value, reason, "name the real one")
    if kafka.registry_url.startswith("http://"):
        reason = "schemas would travel unencrypted"
        yield _refused("kafka.registry_url", kafka.registry_url, reason, "use https")
    protocol = kafka.options.get("security.protocol", "plaintext")
    if protocol.lower() not in {"ssl", "sasl_ssl"}:
        reason = "messages would travel unencrypted"
        key = "kafka.options.security.protocol"
        yield _refused(key, protocol, reason, "use SSL or SASL_SSL")


def _refused(key: str, value: object, reason: str, remedy: str) -> Problem:
    return Problem(key, shown(key, value), f"refused in production: {reason}", remedy)
