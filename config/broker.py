"""The embedded Kafka-protocol broker and schema registry, for demos and tests."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field


class BrokerConfig(BaseModel):
    """librdkafka's mock cluster: it keeps 5 MiB a partition in memory and nothing on disk."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    topics: dict[str, Annotated[int, Field(ge=1, le=64)]] = Field(
        default_factory=lambda: {"quotes": 2, "quotes.dead": 1},
        description="Topics to create, each with its number of partitions.",
    )
    registry_port: Annotated[int, Field(ge=0, le=65535)] = Field(
        default=0, description="Loopback port of the schema registry; 0: any free one."
    )
    fault_switches: bool = Field(
        default=False,
        description="Allow everyone on this host to switch faults on (PUT /admin/faults of the "
        "registry): for tests and demos of an outage.",
    )
