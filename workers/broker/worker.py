"""The broker as a supervised worker: started, its address published in the mesh, served."""

from __future__ import annotations

import uuid

from workers.base import Worker
from workers.broker.cluster import BrokerUnavailable, MockCluster
from workers.broker.schema_registry import RegistryServer, Schemas
from workers.records import BROKER, BrokerAddress


class BrokerWorker(Worker):
    """The cluster runs in threads of its own; the registry is served from the loop."""

    def setup(self) -> None:
        """Start both and publish where they are. Raises BrokerUnavailable (a port is taken)."""
        config = self.context.settings.broker
        self._cluster = MockCluster()
        for topic, partitions in config.topics.items():
            self._cluster.create_topic(topic, partitions)
        schemas = Schemas(self.context.settings.run_directory / "registry.jsonl")
        try:
            self._registry = RegistryServer(schemas, config.registry_port)
        except OSError as error:
            raise BrokerUnavailable(
                f"schema registry: port {config.registry_port}: {error.strerror}; "
                "set broker.registry_port to a free one, or to 0 for any"
            ) from error
        address = BrokerAddress(
            self._cluster.bootstrap_servers,
            self._registry.url,
            dict(config.topics),
            incarnation=uuid.uuid4().hex,
        )
        self.context.mesh.cell(BROKER, BrokerAddress, create=True).write(address)
        self.context.log.info(
            "listening", kafka=address.bootstrap_servers, registry=address.registry_url
        )

    def step(self) -> int:
        """Answer the registry's requests; the cluster needs no help."""
        return self._registry.serve()

    def teardown(self) -> None:
        """Stop both."""
        self._registry.server_close()
        self._cluster.close()
