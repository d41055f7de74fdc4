"""How Kafka and the schema registry are reached."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from config.section import Section


class KafkaConfig(Section):
    """Addresses, topics and librdkafka's own options."""

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
        default="quotes.dead", min_length=1, description="Topic for messages that cannot be used."
    )
    options: dict[str, str] = Field(
        default_factory=dict,
        description="librdkafka options passed through (security.protocol, sasl.password, ...).",
    )
    registry_user: str = Field(
        default="", description="User (or key) for the schema registry; empty: none is sent."
    )
    registry_password: str = Field(default="", description="Password of that user.")
    group: str = Field(
        default="",
        description="Consumer group that shares the partitions among several hosts; empty: this "
        "host reads all of them.",
    )
    instance: str = Field(
        default="",
        description="Name of this member of the group that survives restarts (static membership, "
        "where the brokers have it).",
    )
    commit_group: str = Field(
        default="tradingmesh",
        min_length=1,
        description="Group under which positions are committed without a consumer group: for "
        "monitoring, and for a start with an empty mesh.",
    )
    commit_s: Annotated[float, Field(gt=0.0, le=3600.0)] = Field(
        default=1.0, description="Seconds between two commits of positions to Kafka."
    )
    start: Literal["oldest", "newest"] = Field(
        default="oldest",
        description="Where to begin a partition without a position in the mesh or in Kafka.",
    )
    connect_timeout_s: Annotated[float, Field(gt=0.0, le=300.0)] = Field(
        default=10.0, description="Seconds a request for metadata may take."
    )
