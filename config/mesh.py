"""Where the shared memory of this system lies and who may read it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints


class MeshConfig(BaseModel):
    """The mesh: one directory of segments on a tmpfs."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: Path = Field(
        default=Path("/dev/shm/tradingmesh"),  # noqa: S108 - tmpfs is the point, and it is made 0700
        description="Directory of the segments; its file system should be a tmpfs.",
    )
    mode: Annotated[str, StringConstraints(pattern=r"^0?7[0-7]{2}$")] = Field(
        default="0700",
        description="Permissions of the directory, octal; 0750 lets the owning group read.",
    )

    @property
    def permissions(self) -> int:
        """`mode` as the number that chmod takes."""
        return int(self.mode, 8)
