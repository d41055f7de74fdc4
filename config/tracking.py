"""Experiment tracking: a spool that never blocks training, shipped to MLflow by a worker."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from config.section import Section


class TrackingConfig(Section):
    """MLflow."""

    uri: str = Field(
        default="",
        description="MLflow tracking server; empty: a SQLite file in the run directory.",
    )
    experiment: str = Field(
        default="tradingmesh", min_length=1, description="Name of the MLflow experiment."
    )
    every_updates: Annotated[int, Field(ge=1, le=10**9)] = Field(
        default=200, description="Updates between two logged points of a trainer."
    )
    spool_bytes: Annotated[int, Field(ge=4096)] = Field(
        default=256 << 20,
        description="Largest spool of a trainer; when it is full, points are counted and dropped.",
    )
    retry_s: Annotated[float, Field(gt=0.0, le=3600.0)] = Field(
        default=5.0, description="Seconds between two attempts while MLflow is unreachable."
    )
    timeout_s: Annotated[int, Field(ge=1, le=600)] = Field(
        default=10, description="Seconds a request to MLflow may take."
    )
