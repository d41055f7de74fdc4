"""What every kind of segment has in common: a name, a writer, a version, statistics, an end."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from mesh.header import KINDS, Identity
from mesh.segment_file import SegmentFile, read_head

if TYPE_CHECKING:
    from pathlib import Path

    from mesh.process_identity import ProcessIdentity


class SegmentStatistics(NamedTuple):
    """Counters of a segment since its creation, and its size in bytes."""

    published: int
    retries: int
    laps: int
    lost: int
    breaks: int
    size_bytes: int


class SegmentInfo(NamedTuple):
    """What the head of a segment says; sizes in bytes, `generation` in wall-clock ns."""

    name: str
    kind: str
    size_bytes: int
    record_size: int
    capacity: int
    schema: str
    generation: int
    owner: ProcessIdentity | None
    published: int


def info_of(name: str, path: Path) -> SegmentInfo:
    """Read a segment's head, mapping nothing.

    Raises:
        Corrupt: The file is no segment, or its head contradicts itself.
        LayoutMismatch: It has another layout version.
        OSError: The file cannot be opened.
    """
    identity, schema, control = read_head(path)
    return _info(name, identity, schema, control.owner, control.published)


def _info(
    name: str, i: Identity, schema: str, owner: ProcessIdentity | None, published: int
) -> SegmentInfo:
    kind = KINDS.get(i.kind, f"kind {i.kind}")
    return SegmentInfo(
        name, kind, i.total_size, i.record_size, i.capacity, schema, i.generation, owner, published
    )


class Segment:
    """An attached segment. Its owner may publish; everybody else reads."""

    def __init__(self, file: SegmentFile) -> None:
        """Wrap an open file; the kinds add what they do."""
        self._file = file
        self.name = file.name

    @property
    def info(self) -> SegmentInfo:
        """The head as it is now.

        Raises:
            LeaseLost: The segment was closed.
        """
        file = self._file
        published = file.mapping.counters().published
        return _info(self.name, file.identity, file.schema, file.owner(), published)

    def statistics(self) -> SegmentStatistics:
        """Return the counters.

        Raises:
            LeaseLost: The segment was closed.
        """
        counters = self._file.mapping.counters()
        return SegmentStatistics(
            published=counters.published,
            retries=counters.retries,
            laps=counters.laps,
            lost=counters.lost,
            breaks=counters.breaks,
            size_bytes=self._file.identity.total_size,
        )

    def close(self) -> None:
        """End the lease, if it is ours, and the attachment. Reading afterwards is an error."""
        self._file.close()
