"""Messages that cannot be used: kept with their reason, passed only once they are safe.

Headers follow Kafka Connect's dead letter queues (`__connect.errors.*`) and add `mesh.*`. A
message counts as safe when its delivery is reported, or when it is in the local spool on disk;
the spool is drained, in order, when the topic takes messages again.
"""

from __future__ import annotations

import base64
import json
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from workers.ingest.errors import SinkFull

Headers = list[tuple[str, str | bytes | None]]


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """One message that could not be used, and why."""

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: Headers
    kind: str
    text: str


class DeadLetters:
    """The dead-letter topic with a spool before it."""

    def __init__(
        self, options: dict[str, Any], topic: str, spool: Path, *, limit: int, timeout_s: float
    ) -> None:
        """Deliver to `topic` within `timeout_s`; keep up to `limit` bytes in `spool` otherwise."""
        self._producer = Producer(
            {**options, "message.timeout.ms": int(timeout_s * 1000), "linger.ms": 5}
        )
        self._topic = topic
        self._spool = spool
        self._limit = limit
        self._timeout_s = timeout_s
        self.spooled = sum(1 for _ in self._read_spool())

    def keep(self, letters: Sequence[DeadLetter]) -> None:
        """Make every letter safe, in order. Raises SinkFull when that cannot be done."""
        left = self._deliver(letters) if self.drain() else list(letters)
        if left:
            self._append(left)

    def drain(self) -> bool:
        """Deliver what is spooled; True when nothing is left."""
        if self.spooled == 0:
            return True
        left = self._deliver(list(self._read_spool()))
        self._rewrite(left)
        return not left

    def close(self) -> None:
        """Nothing is pending: keep() waits."""
        self._producer.purge()

    def _deliver(self, letters: Sequence[DeadLetter]) -> list[DeadLetter]:
        """Send letters; give those that were not delivered, in order."""
        delivered: set[int] = set()
        for index, letter in enumerate(letters):

            def report(error: KafkaError | None, _: Message, index: int = index) -> None:
                if error is None:
                    delivered.add(index)

            try:
                self._producer.produce(
                    self._topic,
                    letter.value,
                    letter.key,
                    headers=_headers(letter),
                    on_delivery=report,
                )
            except (BufferError, KafkaException):
                break
            self._producer.poll(0)
        self._producer.flush(self._timeout_s + 1.0)
        return [letter for index, letter in enumerate(letters) if index not in delivered]

    def _append(self, letters: Sequence[DeadLetter]) -> None:
        lines = "".join(_line(letter) for letter in letters)
        size = self._spool.stat().st_size if self._spool.exists() else 0
        if size + len(lines) > self._limit:
            raise SinkFull(
                f"{self._spool}: {size} bytes, {len(lines)} more would pass the limit of "
                f"{self._limit}; bring topic {self._topic!r} back or raise ingest.spool_bytes"
            )
        self._spool.parent.mkdir(parents=True, exist_ok=True)
        with self._spool.open("a", encoding="ascii") as file:
            file.write(lines)
            file.flush()
            os.fsync(file.fileno())
        self.spooled += len(letters)

    def _rewrite(self, letters: Sequence[DeadLetter]) -> None:
        temporary = self._spool.with_suffix(".tmp")
        temporary.write_text("".join(_line(letter) for letter in letters), encoding="ascii")
        os.replace(temporary, self._spool)  # noqa: PTH105 - the atomic one
        self.spooled = len(letters)

    def _read_spool(self) -> Iterator[DeadLetter]:
        if not self._spool.exists():
            return
        for line in self._spool.read_text(encoding="ascii").splitlines():
            try:
                yield _letter(json.loads(line))
            except ValueError:  # a line cut by a crash: its message was not passed
                continue


def _headers(letter: DeadLetter) -> Headers:
    added = {
        "__connect.errors.topic": letter.topic,
        "__connect.errors.partition": str(letter.partition),
        "__connect.errors.offset": str(letter.offset),
        "__connect.errors.stage": "VALUE_CONVERTER",
        "__connect.errors.exception.class.name": letter.kind,
        "__connect.errors.exception.message": letter.text,
        "mesh.error.class": letter.kind,
        "mesh.ts": str(time.time_ns()),
    }
    return [*letter.headers, *((name, value.encode()) for name, value in added.items())]


def _raw(value: str | bytes | None) -> bytes | None:
    return value.encode() if isinstance(value, str) else value


def _text(data: bytes | None) -> str | None:
    return None if data is None else base64.b64encode(data).decode()


def _bytes(text: str | None) -> bytes | None:
    return None if text is None else base64.b64decode(text)


def _line(letter: DeadLetter) -> str:
    headers = [[name, _text(_raw(value))] for name, value in letter.headers]
    fields = [
        letter.topic, letter.partition, letter.offset, _text(letter.key), _text(letter.value),
        headers, letter.kind, letter.text,
    ]  # fmt: skip
    return json.dumps(fields) + "\n"


def _letter(fields: list[Any]) -> DeadLetter:
    topic, partition, offset, key, value, headers, kind, text = fields
    return DeadLetter(
        topic, partition, offset, _bytes(key), _bytes(value),
        [(name, _bytes(found)) for name, found in headers], kind, text,
    )  # fmt: skip
