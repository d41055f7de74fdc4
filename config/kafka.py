"""How Kafka and the schema registry are reached."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field


class KafkaConfig(BaseModel):
    """Addresses, topics and librdkafka's own options."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    bootstrap_servers: str = Field(
        default="mesh",
        min_length=1,
        description="host:port[,host:port]; `mesh`: the embedded broker's, from the mesh.",
    )
    registry_url: str = Field(
        default="mesh",
        min_length=1,
        description="URL of the schema registry; `mesh`: the embedded one, from the mesh.",
    )
    topics: tuple[str, ...] = Field(
        default=("quotes",), min_length=1, description="Topics with market data."
    )
    dead_letter_topic: str = Field(
        default="quotes.dead", min_length=1, description="Where messages go that cannot be used."
    )
    options: dict[str, str] = Field(
        default_factory=dict,
        description="librdkafka options passed through (security.protocol, sasl.password, ...).",
    )
    connect_timeout_s: Annotated[float, Field(gt=0.0, le=300.0)] = Field(
        default=10.0, description="Seconds a request for metadata may take."
    )
