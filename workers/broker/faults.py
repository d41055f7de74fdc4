"""Faults on demand: a broker that is down, a registry that answers 503, late, or with garbage.

For tests and demos only, switched over HTTP (`PUT /admin/faults`, if broker.fault_switches is set),
so that a test can cause an outage from another process. `PUT` replaces all faults, `DELETE` ends
them.
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
    """Faults of the registry in the next `count` requests (-1: in all)."""

    count: int = -1
    status: int = 0  # answer with this HTTP status; 0 = answer the request
    retry_after_s: int = 0  # header Retry-After beside the status
    delay_s: float = 0.0
    #: text: HTML instead of JSON; cut: close after half an answer; drop: close without an answer
    garbage: Literal["", "text", "cut", "drop"] = ""


class BrokerFaults(msgspec.Struct, forbid_unknown_fields=True):
    """Faults of the Kafka broker."""

    down: bool = False  # close all connections and refuse new ones
    rtt_ms: int = 0
    topic_errors: dict[str, int] = {}  # topic -> Kafka error code of each request for it
    request_errors: dict[
        str, list[int]
    ] = {}  # produce, fetch, ... -> error codes of the next requests


class Faults(msgspec.Struct, forbid_unknown_fields=True):
    """All faults that are switched on."""

    registry: RegistryFaults = msgspec.field(default_factory=RegistryFaults)
    broker: BrokerFaults = msgspec.field(default_factory=BrokerFaults)


class FaultSwitches:
    """Applies faults and counts the answers they changed."""

    def __init__(
        self,
        cluster: MockCluster | None = None,
        expect: Callable[[float], AbstractContextManager[object]] = nullcontext,
    ) -> None:
        """Start without faults.

        Args:
            cluster: The broker to switch; None: only the registry.
            expect: Announces how many seconds a step may take, because the cluster's thread reacts
                slowly.
        """
        self.faults = Faults()
        self.injected = 0
        self._cluster = cluster
        self._expect = expect

    def answer(self, request: Request) -> Answer:
        """Answer a request to PATH: GET reads the faults, PUT replaces them, DELETE ends them."""
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
        """Replace the current faults by `faults`.

        An unknown kind of request in them is a ValueError of the cluster.
        """
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
        """Return the answer to send instead of `answer`."""
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
