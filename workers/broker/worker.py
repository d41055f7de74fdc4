"""The embedded broker as a supervised worker, which publishes its address in the mesh."""

from __future__ import annotations

import os
import time
import uuid

from mesh.process_identity import ProcessIdentity
from workers.broker.cluster import PARTITION_BYTES, BrokerUnavailable, MockCluster
from workers.broker.faults import PATH, FaultSwitches
from workers.broker.schema_registry import RegistryServer, Schemas
from workers.contract.names import BROKER, status_segment
from workers.contract.statuses import BrokerAddress, BrokerStatus
from workers.runtime.worker import Worker

STATUS_INTERVAL_S = 0.5


class BrokerWorker(Worker):
    """The cluster runs in threads of librdkafka; the registry is served from the loop."""

    def setup(self) -> None:
        """Start the broker and the registry, and publish their addresses.

        Raises:
            BrokerUnavailable: The port of the registry is in use, or the broker cannot start.
        """
        config = self.context.settings.broker
        self._cluster = MockCluster()
        for topic, partitions in config.topics.items():
            self._cluster.create_topic(topic, partitions)
        schemas = Schemas(self.context.settings.run_directory / "registry.jsonl")
        try:
            self._registry = RegistryServer(
                schemas,
                config.registry_port,
                switches=FaultSwitches(self._cluster, self.context.expect),
                switchable=config.fault_switches,
                expect=self.context.expect,
            )
        except OSError as error:
            raise BrokerUnavailable(
                f"schema registry: port {config.registry_port}: {os.strerror(error.errno or 0)}; "
                "set broker.registry_port to a free one, or to 0 for any"
            ) from error
        address = BrokerAddress(
            bootstrap_servers=self._cluster.bootstrap_servers,
            registry_url=self._registry.url,
            topics=dict(config.topics),
            incarnation=uuid.uuid4().hex,
            partition_bytes=PARTITION_BYTES,
            fault_switches=self._registry.url + PATH if config.fault_switches else "",
        )
        mesh = self.context.mesh
        mesh.cell(BROKER, BrokerAddress, create=True).write(address)
        self._cell = mesh.cell(status_segment(self.context.name), BrokerStatus, create=True)
        self._status = BrokerStatus(
            partition_bytes=PARTITION_BYTES, topics=dict(config.topics), ready_s=age_s()
        )
        self._published_at = 0.0
        self._publish_status()
        self.context.log.info(
            "listening", kafka=address.bootstrap_servers, registry=address.registry_url
        )

    def step(self) -> int:
        """Answer the registry's requests; the cluster runs in its own thread."""
        answered = self._registry.serve()
        if time.monotonic() - self._published_at >= STATUS_INTERVAL_S:
            self._publish_status()
        return answered

    def teardown(self) -> None:
        """Stop the registry and the broker."""
        self._publish_status()
        self._registry.server_close()
        self._cluster.close()

    def _publish_status(self) -> None:
        """Write the status cell."""
        self._published_at = time.monotonic()
        status, registry = self._status, self._registry
        status.requests, status.refused = registry.requests, registry.refused
        status.schemas = len(registry.schemas)
        status.faults_injected = registry.switches.injected
        status.state = "down on request" if registry.switches.faults.broker.down else "serving"
        self._cell.write(status)


def age_s() -> float:
    """Return the seconds since this process started, in the kernel's resolution of 10 ms."""
    started = ProcessIdentity.current().start_time / os.sysconf("SC_CLK_TCK")
    return time.clock_gettime(time.CLOCK_BOOTTIME) - started
