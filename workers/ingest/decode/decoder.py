"""Messages in Confluent's framing to rows, with a status for each.

A schema id leads once to a compiled plan, which then decodes in C; to fastavro, where a plan
cannot be made; or to a verdict on every message that names it.
"""

from __future__ import annotations

import io
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

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
from workers.ingest.errors import ErrorClass, Poison, RegistryUnavailable, SchemaUnknown

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


for _name in ("long-timestamp-nanos", "long-local-timestamp-nanos"):
    fastavro.read.LOGICAL_READERS[_name] = lambda data, *_: Nanoseconds(data)


@dataclass(frozen=True, slots=True)
class Writer:
    """A writer's schema beside ours, for messages that take the slow way."""

    schema: Any
    reader: Any
    check: BodyCheck

    def record(self, body: bytes) -> Any:
        """Read one body with fastavro. Raises Poison."""
        self.check(body)
        try:
            return fastavro.schemaless_reader(io.BytesIO(body), self.schema, self.reader)
        except SchemaResolutionError as error:
            raise Poison(ErrorClass.SCHEMA_INCOMPATIBLE, str(error)) from error
        except _BODY_ERRORS as error:
            raise Poison(ErrorClass.BODY, f"{type(error).__name__}: {error}") from error


class _Pruning:
    """A parsed schema without the fields that no column wants.

    Named types become one copy a use (aliases keep what they match): two uses may want other
    fields of the same record, and the use that held the definition may be gone.
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
    """What the formats have in common: a batch of messages, a row and a status for each."""

    def __init__(self, mapping: RowMapping, *, capacity: int) -> None:
        """Make room for `capacity` messages at once."""
        self._mapping = mapping
        self._capacity = capacity
        self.rows = np.zeros(capacity, mapping.dtype)
        self.status = np.zeros(capacity, np.uint8)
        self.schema_ids = np.zeros(capacity, np.uint32)
        self.offsets = np.zeros(capacity, np.int64)
        self.places = np.zeros(capacity, np.int32)
        self.origins = np.zeros(capacity, np.int32)
        self.fallback_decoded = 0
        self.unavailable = ""  # why schemas could not be had in the last decode
        self._bodies: Sequence[Any] = ()
        self.assign([])

    def assign(self, places: list[tuple[str, int, int]]) -> None:
        """Say which (topic, its index in rows, partition) messages come from, by place."""
        arrays = (
            self.rows,
            self.status,
            self.schema_ids,
            self.offsets,
            self.places,
            self.origins,
        )
        fields: Mapping[str, Any] = self._mapping.dtype.fields or {}
        at = [
            fields[name][1] if name in fields else -1 for name in ("topic", "partition", "offset")
        ]
        self._batch = _native.Batch(arrays, places, *at)

    # --- taking ---------------------------------------------------------------------------

    def take(self, messages: list[Message], following: Rows) -> tuple[list[Message], int]:
        """Take messages that are not before `following` (next offset by place, moved behind them).

        Gives the events among them (messages with an error) and how many were passed before.
        """
        found = self._batch.take(messages, following)
        self._bodies = messages
        return found

    @property
    def count(self) -> int:
        """Messages taken."""
        return self._batch.count

    @property
    def registry_requests(self) -> int:
        """How often a registry was asked."""
        return 0

    def value(self, index: int) -> bytes | None:
        """Give the value of a taken message."""
        found = self._bodies[self.origins[index]]
        value: bytes | None = found if found is None or isinstance(found, bytes) else found.value()
        return value

    def clear(self) -> None:
        """Let the messages go."""
        self._bodies = ()
        self._batch.clear()

    # --- decoding -------------------------------------------------------------------------

    @abstractmethod
    def decode(self) -> tuple[Rows, Rows]:
        """Give rows and status of what was taken, views of shape (count,); a row where OK."""

    def decode_values(self, values: list[bytes | None]) -> tuple[Rows, Rows]:
        """Decode values that come from no place; as `decode`."""
        self._batch.take_values(values)
        self._bodies = values
        return self.decode()

    def reason(self, index: int) -> Poison:
        """Say what is wrong with a taken message whose status is not OK."""
        kind = plan.STATUS_CLASS[int(self.status[index])]
        try:
            self._slowly(index)
        except Poison as poison:
            return Poison(kind, str(poison))
        return Poison(kind, "refused in a batch and not alone")

    @abstractmethod
    def _slowly(self, index: int) -> Rows:
        """Give the row of one message that is not OK, to hear what is wrong. Raises Poison."""

    def _begin(self) -> tuple[Rows, Rows]:
        """Give rows and status of what was taken, as if all of it were fine and framed."""
        n = self._batch.count
        self.status[:n], self.schema_ids[:n] = plan.OK, 0
        return self.rows[:n], self.status[:n]


class Decoder(BatchDecoder):
    """Decodes with whatever schema each message names.

    `reader` is the Avro schema through which messages are read; None: each through its writer's
    own, so that only the mapping says what is wanted. The outermost record may have any name.
    """

    def __init__(
        self, registry: SchemaRegistry, mapping: RowMapping, reader: Any, *, capacity: int
    ) -> None:
        """Make room for `capacity` messages at once. Raises ValueError for an unusable reader."""
        self._registry = registry
        self._reader = None if reader is None else _parsed(reader)
        self._plans: dict[int, _native.Plan] = {}
        self._writers: dict[int, Writer] = {}
        self._verdicts: dict[int, Poison] = {}
        super().__init__(mapping, capacity=capacity)

    @property
    def registry_requests(self) -> int:
        """How often the registry was asked."""
        return self._registry.requests

    def decode(self) -> tuple[Rows, Rows]:
        """Give rows and status of what was taken, views of shape (count,); a row where OK.

        PENDING is the status of those whose schema cannot be had now; `unavailable` says why.
        """
        n = self._batch.count
        status = self.status[:n]
        self.unavailable = ""
        if self._batch.decode(self._plans):
            pending = self.schema_ids[:n][status == plan.PENDING]
            waiting = {i for i in sorted(set(pending.tolist())) if not self._learn(i)}
            self._batch.decode(self._plans)
            self._judge(status, waiting)
        if plan.FALLBACK in status.tobytes():
            for index in np.flatnonzero(status == plan.FALLBACK).tolist():
                self._fall_back(index)
        return self.rows[:n], status

    def reason(self, index: int) -> Poison:
        """Say what is wrong with a taken message whose status is not OK."""
        value, status = self.value(index), int(self.status[index])
        kind = plan.STATUS_CLASS[status]
        if value is None or status == plan.FRAME:
            return Poison(kind, _frame_problem(value))
        schema_id = int(self.schema_ids[index])
        if schema_id in self._verdicts:
            return self._verdicts[schema_id]
        if status == plan.UNKNOWN:
            return Poison(kind, f"schema id {schema_id} is not known to the registry")
        try:
            self._slowly(index)
        except Poison as poison:
            return Poison(kind, str(poison))
        return Poison(kind, f"refused by the plan of schema id {schema_id}")

    def _fall_back(self, index: int) -> None:
        self.fallback_decoded += 1
        try:
            row = self._slowly(index)
        except Poison as poison:
            self.status[index] = plan.STATUS_OF[poison.kind]
        else:
            self.rows[index] = row[0]
            self.status[index] = plan.OK
            self._batch.stamp(index)

    def _slowly(self, index: int) -> Rows:
        value = self.value(index)
        if value is None:
            raise AssertionError("a message without value was framed")
        writer = self._writers[int(self.schema_ids[index])]
        return self._mapping.row(writer.record(value[FRAME_BYTES:]))

    # --- schemas --------------------------------------------------------------------------

    def _judge(self, status: Rows, waiting: set[int]) -> None:
        """Give the messages that have no plan their verdict, or to fastavro."""
        ids = self.schema_ids[: status.size]
        for schema_id in set(ids[status == plan.PENDING].tolist()):
            mine = (ids == schema_id) & (status == plan.PENDING)
            if schema_id in self._verdicts:
                status[mine] = plan.INCOMPATIBLE
            elif schema_id in self._writers:
                status[mine] = plan.FALLBACK
            elif schema_id not in waiting:
                status[mine] = plan.UNKNOWN

    def _learn(self, schema_id: int) -> bool:
        """Get and compile a schema; False where it cannot be had now.

        What cannot be read at all becomes a verdict.
        """
        if schema_id in self._writers or schema_id in self._verdicts:
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
            self._verdicts[schema_id] = Poison(
                ErrorClass.SCHEMA_INCOMPATIBLE, f"schema id {schema_id}: {error}"
            )
        return True

    def _reader_for(self, writer: Any) -> Any:
        """Give the reader's schema with the writer's record name, and only what is wanted."""
        if plan.kind_of(writer) != "record":
            raise plan.Incompatible(f"the writer's schema is no record but {plan.kind_of(writer)}")
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
    """Parse a copy: fastavro marks what it has parsed, and would not look at it again."""
    return fastavro.parse_schema(json.loads(json.dumps(schema), object_hook=_unmarked))


def _unmarked(found: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in found.items() if not key.startswith("__")}


def _frame_problem(value: bytes | None) -> str:
    if value is None:
        return f"no value, a framed message has at least {FRAME_BYTES} bytes"
    if len(value) < FRAME_BYTES:
        return f"{len(value)} bytes, a framed message has at least {FRAME_BYTES}"
    return f"magic byte {FRAME.unpack_from(value)[0]}, expected {MAGIC}"
