"""Messages in Confluent's framing to rows, with a status for each.

Each schema id is resolved once: to a compiled plan, which then decodes in C; to fastavro, where no
plan can be made; or to a rejection of every message that names it.
"""

from __future__ import annotations

import io
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import confluent_kafka
import fastavro
import fastavro.read
import fastavro.repository
import fastavro.schema
import numpy as np
from fastavro.read import SchemaResolutionError

from workers.contract.quote_schema import FRAME, FRAME_BYTES, MAGIC
from workers.ingest.decode import plan
from workers.ingest.decode._avro import _native
from workers.ingest.decode.mapping import Column, Nanoseconds, RowMapping, Rows
from workers.ingest.decode.wellformed import BodyCheck
from workers.ingest.errors import (
    ErrorClass,
    MessageRejected,
    RegistryUnavailable,
    Rejection,
    SchemaUnknown,
)

if TYPE_CHECKING:
    from confluent_kafka import Message

    from workers.ingest.decode.registry import SchemaRegistry

SCHEMA_ERRORS = (
    ValueError,
    KeyError,
    TypeError,
    fastavro.schema.SchemaParseException,
    fastavro.schema.UnknownType,
    fastavro.repository.SchemaRepositoryError,
)
_BODY_ERRORS = (EOFError, ValueError, IndexError, KeyError, OverflowError, TypeError)


_STAMPS: Final = ("topic", "partition", "offset")
#: releases of confluent-kafka on which direct calls were tested (its Message is an internal)
_KNOWN_RELEASES: Final = frozenset({(2, 16)})


def calls_are_known(version: str) -> bool:
    """Whether the C functions behind Message's methods may be called directly.

    A batch then calls `value()`, `offset()` and so on without an argument tuple, and borrows the
    bytes that the message holds. Both are internals of confluent-kafka; with an untested release
    the methods are called by name, and the batch keeps the bytes itself (slower, same rows).
    """
    major, _, rest = version.partition(".")
    minor = rest.partition(".")[0]
    return major.isdigit() and minor.isdigit() and (int(major), int(minor)) in _KNOWN_RELEASES


CALLS_ARE_KNOWN: Final = calls_are_known(str(confluent_kafka.__version__))

for _name in ("long-timestamp-nanos", "long-local-timestamp-nanos"):
    fastavro.read.LOGICAL_READERS[_name] = lambda data, *_: Nanoseconds(data)


@dataclass(frozen=True, slots=True)
class Writer:
    """A writer's schema and ours, for messages that fastavro decodes."""

    schema: Any
    reader: Any
    check: BodyCheck

    def record(self, body: bytes) -> Any:
        """Read one body with fastavro.

        Raises:
            MessageRejected: the message cannot become a row.
        """
        self.check(body)
        try:
            return fastavro.schemaless_reader(io.BytesIO(body), self.schema, self.reader)
        except SchemaResolutionError as error:
            raise MessageRejected(ErrorClass.SCHEMA_INCOMPATIBLE, str(error)) from error
        except _BODY_ERRORS as error:
            raise MessageRejected(ErrorClass.BODY, f"{type(error).__name__}: {error}") from error


class _Pruning:
    """A parsed schema without the fields that no column needs.

    Each use of a named type becomes a copy of its own (aliases keep what it matches), because two
    uses may need different fields of one record, and the use with the definition may be removed.
    """

    def __init__(self, names: Mapping[str, Any]) -> None:
        self._names = names
        self._copies = 0

    def outermost(self, record: Any, tree: Mapping[str, Any]) -> Any:
        """Prune the record of a whole message, which keeps its name."""
        fields = [field for field in record["fields"] if field["name"] in tree]
        return {**record, "fields": [self._field(field, tree[field["name"]]) for field in fields]}

    def _field(self, field: Any, node: Any) -> Any:
        return {
            **field,
            "type": self._type(field["type"], {} if isinstance(node, Column) else node),
        }

    def _type(self, schema: Any, tree: Mapping[str, Any]) -> Any:
        if isinstance(schema, str):
            schema = self._names.get(schema, schema)
        if isinstance(schema, list):
            return [self._type(branch, tree) for branch in schema]
        if not isinstance(schema, dict) or "name" not in schema:
            return schema
        self._copies += 1
        short = schema["name"].rpartition(".")[2]
        aliases = [*schema.get("aliases", ()), schema["name"], short]
        copy = {**schema, "name": f"{schema['name']}_{self._copies}", "aliases": aliases}
        return self.outermost(copy, tree) if "fields" in schema else copy


class BatchDecoder(ABC):
    """Common part of the formats: a batch of messages, with a row and a status for each.

    Attributes (arrays have one element a message, `capacity` of them, reused by every batch):
        rows: of the mapping's dtype.
        status: uint8, the codes of `plan` (OK, FRAME, ...).
        schema_ids: uint32.
        offsets: int64, in Kafka.
        partitions: int32, indices into the list given to `assign`.
        origins: int32, indices into the list given to `load`.
        fallback_decoded: messages decoded by fastavro.
        unavailable: why schemas were missing in the last decode.
    """

    def __init__(
        self, mapping: RowMapping, *, capacity: int, is_direct: bool = CALLS_ARE_KNOWN
    ) -> None:
        """Allocate room for `capacity` messages a batch.

        `is_direct`: whether the C functions of confluent-kafka's messages may be called without
        going through Python (see `calls_are_known`).
        """
        self._mapping = mapping
        self._is_direct = is_direct
        self._capacity = capacity
        self.rows = np.zeros(capacity, mapping.dtype)
        self.status = np.zeros(capacity, np.uint8)
        self.schema_ids = np.zeros(capacity, np.uint32)
        self.offsets = np.zeros(capacity, np.int64)
        self.partitions = np.zeros(capacity, np.int32)
        self.origins = np.zeros(capacity, np.int32)
        self.fallback_decoded = 0
        self.unavailable = ""
        self._bodies: Sequence[Any] = ()
        self.assign([])

    def assign(self, partitions: list[tuple[str, int, int]]) -> None:
        """Set the partitions that messages come from: (topic, its number in rows, partition)."""
        arrays = (
            self.rows,
            self.status,
            self.schema_ids,
            self.offsets,
            self.partitions,
            self.origins,
        )
        fields: Mapping[str, Any] = self._mapping.dtype.fields or {}
        at = {name: fields[name][1] if name in fields else -1 for name in _STAMPS}
        self._batch = _native.Batch(
            arrays,
            partitions,
            at_topic=at["topic"],
            at_partition=at["partition"],
            at_offset=at["offset"],
            is_direct=self._is_direct,
        )

    # --- loading --------------------------------------------------------------------------

    def load(self, messages: list[Message], next_offsets: Rows) -> tuple[list[Message], int]:
        """Load the messages that were not consumed before.

        Args:
            messages: as Kafka's consumer returns them, at most `capacity`.
            next_offsets: int64, next offset to consume by partition; moved behind the messages.

        Returns:
            The events among the messages (those with an error), and how many messages lie before
            `next_offsets`: they are left out.

        """
        events, stale = self._batch.load(messages, next_offsets)
        self._bodies = messages
        return events, stale

    @property
    def count(self) -> int:
        """Messages loaded."""
        return self._batch.count

    @property
    def registry_requests(self) -> int:
        """Requests sent to a schema registry."""
        return 0

    def value(self, index: int) -> bytes | None:
        """Return the value of a loaded message."""
        body = self._bodies[self.origins[index]]
        value: bytes | None = body if body is None or isinstance(body, bytes) else body.value()
        return value

    def clear(self) -> None:
        """Release the messages."""
        self._bodies = ()
        self._batch.clear()

    # --- decoding -------------------------------------------------------------------------

    @abstractmethod
    def decode(self) -> tuple[Rows, Rows]:
        """Return rows and status of the loaded messages, views of shape (count,).

        A row is valid where its status is OK. PENDING is the status of messages whose schema is
        not available now.
        """

    def decode_values(self, values: list[bytes | None]) -> tuple[Rows, Rows]:
        """Decode values that belong to no partition; returns what `decode` does."""
        self._batch.load_values(values)
        self._bodies = values
        return self.decode()

    def reason(self, index: int) -> Rejection:
        """Return why a loaded message, whose status is not OK, is rejected."""
        kind = plan.STATUS_CLASS[int(self.status[index])]
        try:
            self._decode_one(index)
        except MessageRejected as error:
            return Rejection(kind, str(error))
        return Rejection(kind, "rejected in a batch, accepted alone")

    @abstractmethod
    def _decode_one(self, index: int) -> Rows:
        """Decode one message alone, for the text of its error.

        Raises:
            MessageRejected: the message cannot become a row.
        """

    def _views(self) -> tuple[Rows, Rows]:
        """Return views of rows and status of the loaded messages, all OK and without a schema."""
        n = self._batch.count
        self.status[:n], self.schema_ids[:n] = plan.OK, 0
        return self.rows[:n], self.status[:n]


class Decoder(BatchDecoder):
    """Decodes with whatever schema each message names.

    `reader` is the Avro schema through which messages are read; None: each through its writer's
    own, so that only the mapping says what is wanted. The outermost record may have any name.
    """

    def __init__(
        self,
        registry: SchemaRegistry,
        mapping: RowMapping,
        reader: Any,
        *,
        capacity: int,
        is_direct: bool = CALLS_ARE_KNOWN,
    ) -> None:
        """Allocate room for `capacity` messages a batch.

        Raises:
            ValueError: the reader schema cannot fill the rows.
        """
        self._registry = registry
        self._reader = None if reader is None else _parsed(reader)
        self._plans: dict[int, _native.Plan] = {}
        self._writers: dict[int, Writer] = {}
        self._rejections: dict[int, Rejection] = {}
        super().__init__(mapping, capacity=capacity, is_direct=is_direct)

    @property
    def registry_requests(self) -> int:
        """Requests sent to the schema registry."""
        return self._registry.requests

    def decode(self) -> tuple[Rows, Rows]:
        """Decode what is loaded; `unavailable` says why messages stay PENDING."""
        n = self._batch.count
        status = self.status[:n]
        self.unavailable = ""
        if self._batch.decode(self._plans):
            pending = self.schema_ids[:n][status == plan.PENDING]
            missing = {i for i in sorted(set(pending.tolist())) if not self._learn(i)}
            self._batch.decode(self._plans)
            self._resolve_pending(status, missing)
        if plan.FALLBACK in status.tobytes():
            for index in np.flatnonzero(status == plan.FALLBACK).tolist():
                self._fall_back(index)
        return self.rows[:n], status

    def reason(self, index: int) -> Rejection:
        """Return why a loaded message, whose status is not OK, is rejected."""
        value, status = self.value(index), int(self.status[index])
        kind = plan.STATUS_CLASS[status]
        if value is None or status == plan.FRAME:
            return Rejection(kind, _frame_problem(value))
        schema_id = int(self.schema_ids[index])
        if schema_id in self._rejections:
            return self._rejections[schema_id]
        if status == plan.UNKNOWN:
            return Rejection(kind, f"schema id {schema_id} is not known to the registry")
        try:
            self._decode_one(index)
        except MessageRejected as error:
            return Rejection(kind, str(error))
        return Rejection(kind, f"rejected by the plan of schema id {schema_id}")

    def _fall_back(self, index: int) -> None:
        self.fallback_decoded += 1
        try:
            row = self._decode_one(index)
        except MessageRejected as error:
            self.status[index] = plan.STATUS_OF[error.rejection.kind]
        else:
            self.rows[index] = row[0]
            self.status[index] = plan.OK
            self._batch.stamp(index)

    def _decode_one(self, index: int) -> Rows:
        value = self.value(index)
        if value is None:
            raise AssertionError("a message without value was framed")
        writer = self._writers[int(self.schema_ids[index])]
        return self._mapping.row(writer.record(value[FRAME_BYTES:]))

    # --- schemas --------------------------------------------------------------------------

    def _resolve_pending(self, status: Rows, missing: set[int]) -> None:
        """Set the status of messages that have no plan; the ids in `missing` stay PENDING."""
        ids = self.schema_ids[: status.size]
        for schema_id in set(ids[status == plan.PENDING].tolist()):
            mine = (ids == schema_id) & (status == plan.PENDING)
            if schema_id in self._rejections:
                status[mine] = plan.INCOMPATIBLE
            elif schema_id in self._writers:
                status[mine] = plan.FALLBACK
            elif schema_id not in missing:
                status[mine] = plan.UNKNOWN

    def _learn(self, schema_id: int) -> bool:
        """Fetch and compile a schema; False where it is not available now.

        A schema that cannot be read as ours becomes a rejection of all its messages.
        """
        if schema_id in self._writers or schema_id in self._rejections:
            return True
        try:
            text = self._registry.schema(schema_id)
        except SchemaUnknown:
            return True
        except RegistryUnavailable as error:
            self.unavailable = str(error)
            return False
        try:
            writer = _parsed(json.loads(text))
            reader = self._reader_for(writer)
            self._writers[schema_id] = Writer(writer, reader, BodyCheck(writer))
            self._plans[schema_id] = plan.compile_plan(writer, reader, self._mapping)
        except plan.Unplannable:
            return True
        except (plan.Incompatible, RecursionError, *SCHEMA_ERRORS) as error:
            self._rejections[schema_id] = Rejection(
                ErrorClass.SCHEMA_INCOMPATIBLE, f"schema id {schema_id}: {error}"
            )
        return True

    def _reader_for(self, writer: Any) -> Any:
        """Return the reader's schema with the writer's record name and the needed fields alone."""
        if plan.kind_of(writer) != "record":
            raise plan.Incompatible(
                f"the writer's schema is a {plan.kind_of(writer)}, not a record"
            )
        reader = writer if self._reader is None else {**self._reader, "name": writer["name"]}
        tree = self._mapping.tree
        wanted = _parsed(_Pruning(plan.named_types(reader)).outermost(reader, tree))
        if self._reader is None:
            names = {field["name"] for field in wanted["fields"]}
            for column in self._mapping.columns:
                if column.required and column.path[0] not in names:
                    raise plan.Incompatible(f"no field {'.'.join(column.path)!r}")
        return wanted


def _parsed(schema: Any) -> Any:
    """Parse a copy: fastavro marks a schema that it has parsed and does not parse it again."""
    return fastavro.parse_schema(json.loads(json.dumps(schema), object_hook=_unmarked))


def _unmarked(node: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in node.items() if not key.startswith("__")}


def _frame_problem(value: bytes | None) -> str:
    if value is None:
        return f"no value, a framed message has at least {FRAME_BYTES} bytes"
    if len(value) < FRAME_BYTES:
        return f"{len(value)} bytes, a framed message has at least {FRAME_BYTES}"
    return f"magic byte {FRAME.unpack_from(value)[0]}, expected {MAGIC}"
