"""What the parts of the settings that may hold secrets have in common."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel, ConfigDict

from config.problems import hidden


class Section(BaseModel):
    """A part of the settings whose text form, which an error may quote, masks secrets."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def __repr_args__(self) -> Iterator[tuple[str | None, Any]]:
        """Return what repr() and str() show."""
        for name, value in super().__repr_args__():
            yield name, hidden(name or "", value)
