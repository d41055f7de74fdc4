"""Faults on demand: a broker that is down, a registry that answers 503, late, or nonsense.

For tests and demos alone, switched over HTTP (`PUT /admin/faults`, where broker.fault_switches is
set): a test in another process makes the outage that it wants to see survived. What is put there
replaces what was; `DELETE` ends all of it.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from http import HTTPStatus
from typing import TYPE_CHECKING, Final, Literal

import msgspec

from workers.broker.http_server import Answer, Request

if TYPE_CHECKING:
    from workers.broker.cluster import MockCluster

PATH: Final = "/admin/faults"
SWITCH_S: Final = 5.0


class RegistryFaults(msgspec.Struct, forbid_unknown_fields=True):
    """What the registry does to the next `count` requests (-1: to all)."""

    count: int = -1
    status: int = 0  # answer with this HTTP status; 0 = with what was asked for
    retry_after_s: int = 0  # sent along with the status
    delay_s: float = 0.0
    #: text: 200 with HTML; cut: half an answer, then the end; drop: the end at once
    garbage: Literal["", "text", "cut", "drop"] = ""


class BrokerFaults(msgspec.Struct, forbid_unknown_fields=True):
    """What the cluster does."""

    down: bool = False  # connections are cut and refused
    rtt_ms: int = 0
    topic_errors: dict[str, int] = {}  # topic -> Kafka error code of every request for it
    request_errors: dict[str, list[int]] = {}  # produce, fetch, ... -> codes of the next ones


class Faults(msgspec.Struct, forbid_unknown_fields=True):
    """All of them."""

    registry: RegistryFaults = msgspec.field(default_factory=RegistryFaults)
    broker: BrokerFaults = msgspec.field(default_factory=BrokerFaults)


class FaultSwitches:
    """Applies faults, and counts what they hit."""

    def __init__(
        self,
        cluster: MockCluster | None = None,
        expect: Callable[[float], AbstractContextManager[object]] = nullcontext,
    ) -> None:
        """Switch `cluster` (None: the registry's faults alone).

        `expect` announces that something may take so many seconds: the cluster's own thread
        takes its time to obey.
        """
        self.faults = Faults()
        self.injected = 0
        self._cluster = cluster
        self._expect = expect

    def answer(self, request: Request) -> Answer:
        """Answer a request for PATH."""
        if request.method == "PUT":
            try:
                self.apply(msgspec.json.decode(request.body, type=Faults))
            except (msgspec.MsgspecError, ValueError) as error:
                return Answer(
                    HTTPStatus.UNPROCESSABLE_ENTITY, {"error_code": 422, "message": str(error)}
                )
        elif request.method == "DELETE":
            self.apply(Faults())
        elif request.method != "GET":
            return Answer(HTTPStatus.METHOD_NOT_ALLOWED, {"error_code": 405, "message": PATH})
        content = {"faults": msgspec.to_builtins(self.faults), "injected": self.injected}
        return Answer(HTTPStatus.OK, content)

    def apply(self, faults: Faults) -> None:
        """Put `faults` in the place of what was. Raises ValueError for an unknown request kind."""
        if self._cluster is not None:
            with self._expect(SWITCH_S):
                self._apply_to(self._cluster, self.faults.broker, faults.broker)
        self.faults = faults

    @staticmethod
    def _apply_to(cluster: MockCluster, before: BrokerFaults, after: BrokerFaults) -> None:
        if before.down != after.down:
            cluster.set_up(not after.down)
        if before.rtt_ms != after.rtt_ms:
            cluster.set_rtt(after.rtt_ms)
        for topic in before.topic_errors.keys() | after.topic_errors.keys():
            cluster.set_topic_error(topic, after.topic_errors.get(topic, 0))
        for kind, codes in after.request_errors.items():
            cluster.push_request_errors(kind, codes)

    def spoil(self, answer: Answer) -> Answer:
        """Return what is answered in the place of `answer`."""
        registry = self.faults.registry
        if registry.count == 0 or registry == RegistryFaults(count=registry.count):
            return answer
        registry.count -= registry.count > 0
        self.injected += 1
        if registry.status:
            wait = (("Retry-After", str(registry.retry_after_s)),) if registry.retry_after_s else ()
            content = {"error_code": registry.status * 100 + 1, "message": "failing on request"}
            answer = Answer(registry.status, content, headers=wait)
        return replace(answer, delay_s=registry.delay_s, garbage=registry.garbage)
