"""A named set of arrays under one version: policy weights, learner state.

Serves I1 and I2: all arrays are of one version, never a mix, and carry a checksum. Three slots,
so that a reader has more than one publish interval for its copy. See `_core/seqlock.h`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import TYPE_CHECKING

import numpy as np

from mesh._core import _native
from mesh.arrays import Array
from mesh.errors import NotWritten, Overtaken, SchemaMismatch
from mesh.header import ARRAYS, LINE, Shape, round_up
from mesh.schema import schema_of
from mesh.segment import Segment

if TYPE_CHECKING:
    from mesh.segment_file import SegmentFile

KIND = 4
SLOTS = 3
SLOT_HEAD = 32


def tensors_shape(like: Mapping[str, Array]) -> Shape:
    """Return the shape of a set of arrays like these.

    Raises:
        ValueError: There is no array, or none holds a byte.
    """
    size = sum(round_up(array.nbytes, 64) for array in like.values())
    if size == 0:
        raise ValueError("tensors need at least one array with a byte in it")
    stride = round_up(SLOT_HEAD + size, LINE)
    return Shape(KIND, ARRAYS, schema_of(like), SLOTS, size, stride, 1, SLOTS * stride)


class Tensors(Segment):
    """Arrays by name; versions count from 1.

    >>> policy = mesh.tensors("policy", like={"w": np.zeros(2), "b": np.zeros(1)}, create=True)
    >>> policy.publish({"w": np.array([1.0, 2.0]), "b": np.array([3.0])})
    1
    >>> with policy.borrow() as view:  # without a copy
    ...     float(view["w"] @ view["w"])
    5.0
    """

    def __init__(self, file: SegmentFile, like: Mapping[str, Array]) -> None:
        """Bind to arrays of these names, dtypes and shapes."""
        super().__init__(file)
        i = file.identity
        self._like = {name: np.empty_like(array, order="C") for name, array in like.items()}
        self._slots = _native.Slots(
            file.mapping, i.data_offset, i.stride, i.slots, i.record_size, None, True
        )
        self._views: dict[int, dict[str, Array]] = {}

    @property
    def version(self) -> int:
        """Newest version, 0 before the first publish."""
        return self._file.mapping.published

    def publish(self, arrays: Mapping[str, Array]) -> int:
        """Publish all arrays as one version.

        Args:
            arrays: The names, dtypes and shapes of the segment; others raise SchemaMismatch.

        Returns:
            The version, from 1. A process that is not the writer gets LeaseLost.
        """
        return self._slots.publish_arrays(self._ordered(arrays))

    def read(self, out: Mapping[str, Array] | None = None) -> tuple[int, dict[str, Array]]:
        """Copy the newest version, all arrays of one version.

        Args:
            out: Arrays to copy into, as `publish` takes them; new ones by default.

        Returns:
            The version and the arrays by name. NotWritten before the first, Corrupt if the
            checksum fails.
        """
        target = out or {name: np.empty_like(array) for name, array in self._like.items()}
        ordered = self._ordered(target)
        return self._slots.read_arrays(ordered), dict(zip(self._like, ordered, strict=True))

    def borrow(self) -> Loan:
        """Use the newest version without a copy, in a `with` statement.

        Entering raises NotWritten before the first version. Leaving raises Overtaken if the
        version was overwritten meanwhile; then do not use anything derived from it.
        """
        return Loan(self)

    def views(self, version: int) -> dict[str, Array]:
        """Return read-only views of the slot in which `version` lies (or lay)."""
        slot = version % SLOTS
        views = self._views.get(slot)
        if views is None:
            i = self._file.identity
            offset = i.data_offset + slot * i.stride + SLOT_HEAD
            views = self._views[slot] = {}
            for name, array in self._like.items():
                view = np.ndarray(array.shape, array.dtype, memoryview(self._file.mapping), offset)
                view.flags.writeable = False
                views[name] = view
                offset += round_up(array.nbytes, 64)
        return views

    def is_intact(self, version: int) -> bool:
        """Whether the slot of `version` was not overwritten up to now."""
        return self._slots.is_intact(version)

    def close(self) -> None:
        """Drop the lease, if it is ours, and detach; borrowed views keep the memory mapped."""
        self._views.clear()
        super().close()

    def wait_newer(self, version: int, timeout: float, *, spin: float = _native.SPIN_S) -> bool:
        """Wait for a version above `version`; arguments and result as in `Cell.wait_newer`."""
        return self._file.mapping.wait(version, timeout, spin)

    def _ordered(self, arrays: Mapping[str, Array]) -> tuple[Array, ...]:
        ordered = tuple(arrays[name] for name in self._like if name in arrays)
        same = len(ordered) == len(arrays) == len(self._like) and all(
            array.dtype == like.dtype and array.shape == like.shape
            for array, like in zip(ordered, self._like.values(), strict=True)
        )
        if not same:
            raise SchemaMismatch(
                f"{self.name}: arrays {schema_of(arrays)}, the segment holds {self._file.schema}"
            )
        return tuple(np.ascontiguousarray(a) if not a.flags.c_contiguous else a for a in ordered)


class Loan:
    """The context manager that `Tensors.borrow()` returns."""

    def __init__(self, tensors: Tensors) -> None:
        """Lend from `tensors` when entered."""
        self._tensors = tensors
        self._version = 0

    def __enter__(self) -> TensorsView:
        """Return views of the newest version."""
        self._version = self._tensors.version
        if self._version == 0:
            raise NotWritten(
                f"{self._tensors.name}: nothing was published yet; wait_newer(0, timeout) waits"
            )
        return TensorsView(self._version, self._tensors.views(self._version))

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Raise Overtaken if the version was overwritten and no other error is raised."""
        if kind is None and not self._tensors.is_intact(self._version):
            raise Overtaken(
                f"{self._tensors.name}: version {self._version} was overwritten while borrowed; "
                "borrow again, for a shorter time, or read() a copy"
            )


class TensorsView(Mapping[str, Array]):
    """Read-only views of one version, valid inside the `with` that lent them."""

    def __init__(self, version: int, views: dict[str, Array]) -> None:
        """Hold the views of `version`."""
        self.version = version
        self._views = views

    def __getitem__(self, name: str) -> Array:
        """Return the array of that name."""
        return self._views[name]

    def __iter__(self) -> Iterator[str]:
        """Return the names."""
        return iter(self._views)

    def __len__(self) -> int:
        """Return the number of arrays."""
        return len(self._views)
