"""Messages that cannot be used: stored with their reason, acknowledged only once they are safe.

Headers follow Kafka Connect's dead letter queues (`__connect.errors.*`) and add `mesh.*`. A
message counts as safe when its delivery is reported, or when it is in the local spool on disk;
the spool is drained, in order, when the topic takes messages again.

Delivery is at least once: a kill between a delivery and what remembers it repeats the letter. One
that may be a repetition says so (`mesh.redelivery`), and topic, partition and offset in its
headers name the message.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Final, NamedTuple

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from workers.ingest.errors import Rejection, SinkFull
from workers.runtime.atomic_file import replacing, sync_directory

PIECE: Final = 1000  # letters of the spool that are under way at once
COPY_BYTES: Final = 1 << 20
Headers = list[tuple[str, str | bytes | None]]


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """One message that could not be used, and why; `kind` is an ErrorClass, `text` says more."""

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: Headers
    kind: str
    text: str
    schema_id: int | None = None
    full_bytes: int = 0  # of the value, where the topic takes only its beginning
    repeated: bool = False  # may have been delivered before

    @classmethod
    def of(cls, message: Message, rejection: Rejection, schema_id: int | None) -> DeadLetter:
        """Return the letter of a message."""
        headers = message.headers()
        return cls(
            str(message.topic()),
            int(message.partition() or 0),
            int(message.offset() or 0),
            _raw(message.key()),
            _raw(message.value()),
            list(headers) if isinstance(headers, list) else [],
            rejection.kind.value,
            rejection.text[:1000],
            schema_id,
        )

    @property
    def origin(self) -> tuple[str, int, int]:
        """The message: topic, partition, offset."""
        return self.topic, self.partition, self.offset


class DeadLetters:
    """The dead-letter topic with a spool before it.

    While the topic accepts messages, `store` waits for their delivery. After a failure, letters go
    to the spool at once (ingest does not wait for a broker that is away), and `drain` sends the
    oldest ones again after a while, without waiting.

    Attributes:
        spooled: letters in the spool.
        repeated: letters sent that may have been delivered before.
        last_error: of the last delivery that failed.
    """

    def __init__(
        self,
        options: dict[str, Any],
        topic: str,
        spool: Path,
        *,
        limit: int,
        timeout_s: float,
        in_doubt: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Open the spool and a producer.

        Args:
            options: of librdkafka.
            topic: where letters are delivered.
            spool: file for letters that cannot be delivered.
            limit: size of the spool, bytes.
            timeout_s: of a delivery, and pause after one that failed, s.
            in_doubt: the process before this one may have delivered the beginning of the spool.
            clock: monotonic, s.
        """
        self._producer = Producer(
            {
                "linger.ms": 0,
                **options,
                "message.timeout.ms": int(timeout_s * 1000),
                "max.in.flight.requests.per.connection": 1,  # a retry must not change the order
                "error_cb": _ignore,
            }
        )
        self._topic = topic
        self._spool = spool
        self._limit = limit
        self._timeout_s = timeout_s
        self._clock = clock
        self._again_at = 0.0
        self._draining: _Attempt | None = None
        self._piece = _Piece(lines=0, size=0)  # of the spool, under way
        self._delivered_bytes = (
            0  # bytes at the head of the spool that are delivered and still there
        )
        self._delivered: set[tuple[str, int, int]] = set()  # of letters that are to come again
        self.repeated = 0
        self.last_error = ""
        self.spooled = self._mend()
        self._in_doubt = PIECE if in_doubt else 0  # lines of the spool

    def store(self, letters: Sequence[DeadLetter]) -> None:
        """Make every letter safe, in order.

        Raises:
            SinkFull: some can be neither delivered nor spooled; those that were delivered before
                are not delivered again.
        """
        self._delivered &= {letter.origin for letter in letters}
        letters = [letter for letter in letters if letter.origin not in self._delivered]
        if self.spooled == 0:
            attempt = self._begin(letters)
            self._producer.flush(self._timeout_s + 1.0)
            self._delivered.update(letters[index].origin for index in attempt.delivered)
            letters = self._left(attempt)
        if letters:
            self._append(letters)
        self._delivered.clear()

    def drain(self) -> None:
        """Deliver the spool piece by piece; the next call processes the result of this one."""
        if self.spooled == 0:
            return
        self._producer.poll(0)
        if self._draining is not None:
            if self._draining.is_open:
                return
            attempt, self._draining = self._draining, None
            self._remove(self._left(attempt), attempt)
        if self.spooled and self._clock() >= self._again_at:
            self._draining = self._begin(self._next_piece())

    def close(self) -> None:
        """Nothing is pending: store() waits, and what is being drained is still in the spool."""
        self._producer.purge()

    def _mend(self) -> int:
        """Cut off a line that a crash left half written (its message was not acknowledged).

        Returns the number of lines.
        """
        if not self._spool.exists():
            return 0
        lines = whole = 0
        with self._spool.open("r+b") as file:
            for line in file:
                if line.endswith(b"\n"):
                    lines, whole = lines + 1, whole + len(line)
            file.truncate(whole)
        return lines

    def _begin(self, letters: Sequence[DeadLetter]) -> _Attempt:
        attempt = _Attempt(letters)
        for index, letter in enumerate(letters):
            try:
                self._producer.produce(
                    self._topic,
                    letter.value,
                    letter.key,
                    headers=_headers(letter),
                    on_delivery=partial(attempt.report, index),
                )
                self.repeated += letter.repeated
            except KafkaException as error:
                attempt.errors[index] = error.args[0]
            except BufferError:
                full = KafkaError(KafkaError._QUEUE_FULL)  # noqa: SLF001 - public in librdkafka
                attempt.errors.update(dict.fromkeys(range(index, len(letters)), full))
                break
            self._producer.poll(0)
        return attempt

    def _left(self, attempt: _Attempt) -> list[DeadLetter]:
        """Return the letters that were not delivered, in order; after any the topic rests."""
        left = [
            _shortened(letter) if _is_too_large(attempt.errors.get(index)) else letter
            for index, letter in enumerate(attempt.letters)
            if index not in attempt.delivered
        ]
        if left:
            self._again_at = self._clock() + self._timeout_s
            first = next(iter(attempt.errors.values()), None)
            self.last_error = "no delivery report in time" if first is None else first.str()
        return left

    def _append(self, letters: Sequence[DeadLetter]) -> None:
        lines = "".join(_line(letter) for letter in letters)
        size = self._spool.stat().st_size if self._spool.exists() else 0
        if size + len(lines) > self._limit:
            raise SinkFull(
                f"{self._spool}: {size} bytes, {len(lines)} more would pass the limit of "
                f"{self._limit}; bring topic {self._topic!r} back or raise ingest.spool_bytes",
                len(letters),
            )
        try:
            self._spool.parent.mkdir(parents=True, exist_ok=True)
            with self._spool.open("a", encoding="ascii") as file:
                file.write(lines)
                file.flush()
                os.fsync(file.fileno())
            if size == 0:
                sync_directory(self._spool.parent)
                sync_directory(self._spool.parent.parent)
        except OSError as error:  # no part of it may stay: the next line would become part of it
            with contextlib.suppress(OSError):
                os.truncate(self._spool, size)
            raise SinkFull(
                f"{self._spool}: {error}; make room there or bring topic {self._topic!r} back",
                len(letters),
            ) from error
        self.spooled += len(letters)

    def _remove(self, left: Sequence[DeadLetter], attempt: _Attempt) -> None:
        """Replace the piece under way by what is left of it.

        A full disk does not end ingest: what is delivered at the head of the piece is stepped
        over, the rest waits for the next time.
        """
        lines, size = self._piece.lines, self._piece.size
        try:
            if self.spooled == lines and not left:  # needs no room
                os.truncate(self._spool, 0)
            else:
                self._rewrite(left, self._delivered_bytes + size)
        except OSError as error:
            self.last_error = f"{self._spool}: {error}; make room there"
            self._again_at = self._clock() + self._timeout_s
            lines = self._step_over(attempt)
            self.spooled -= lines
        else:
            self._delivered_bytes = 0
            self.spooled += len(left) - lines
        self._in_doubt = max(0, self._in_doubt - lines)

    def _rewrite(self, letters: Sequence[DeadLetter], size: int) -> None:
        """Replace the first `size` bytes by `letters`; what follows is only copied."""
        with replacing(self._spool) as file, self._spool.open("rb") as old:
            file.writelines(_line(letter).encode("ascii") for letter in letters)
            old.seek(size)
            shutil.copyfileobj(old, file, COPY_BYTES)

    def _step_over(self, attempt: _Attempt) -> int:
        """Step over the lines at the head of the piece that are delivered; returns how many."""
        index = count = 0
        with self._spool.open("rb") as file:
            file.seek(self._delivered_bytes)
            for line in islice(file, self._piece.lines):
                if _read(line) is not None:
                    if index not in attempt.delivered:
                        break
                    index += 1
                self._delivered_bytes += len(line)
                count += 1
        return count

    def _next_piece(self) -> list[DeadLetter]:
        """Return the oldest letters of the spool, which become the piece under way."""
        with self._spool.open("rb") as file:
            file.seek(self._delivered_bytes)
            lines = list(islice(file, PIECE))
        self._piece = _Piece(lines=len(lines), size=sum(map(len, lines)))
        letters = [_read(line) for line in lines]  # None: damaged on the disk
        return [
            replace(letter, repeated=letter.repeated or index < self._in_doubt)
            for index, letter in enumerate(letters)
            if letter is not None
        ]


class _Piece(NamedTuple):
    """A part of the spool."""

    lines: int
    size: int  # bytes


class _Attempt:
    """One delivery of some letters, and its reports."""

    def __init__(self, letters: Sequence[DeadLetter]) -> None:
        self.letters = letters
        self.delivered: set[int] = set()
        self.errors: dict[int, KafkaError] = {}

    def report(self, index: int, error: KafkaError | None, _: Message) -> None:
        """Record a delivery report."""
        if error is None:
            self.delivered.add(index)
        else:
            self.errors[index] = error

    @property
    def is_open(self) -> bool:
        """Whether reports are missing."""
        return len(self.delivered) + len(self.errors) < len(self.letters)


def _is_too_large(error: KafkaError | None) -> bool:
    return error is not None and error.code() == KafkaError.MSG_SIZE_TOO_LARGE


def _shortened(letter: DeadLetter) -> DeadLetter:
    """Return a letter with half the value, for a topic with a smaller limit than the message's."""
    value = letter.value or b""
    full = letter.full_bytes or len(value)
    return replace(letter, value=value[: len(value) // 2], full_bytes=full)


def _ignore(_: KafkaError) -> None:
    """Ignore errors of the connection: delivery reports say what failed."""


def _headers(letter: DeadLetter) -> Headers:
    added = {
        "__connect.errors.topic": letter.topic,
        "__connect.errors.partition": str(letter.partition),
        "__connect.errors.offset": str(letter.offset),
        "__connect.errors.connector.name": "tradingmesh",
        "__connect.errors.task.id": "0",
        "__connect.errors.stage": "TRANSFORMATION" if letter.kind == "gate" else "VALUE_CONVERTER",
        "__connect.errors.class.name": "workers.ingest.decode.decoder.Decoder",
        "__connect.errors.exception.class.name": letter.kind,
        "__connect.errors.exception.message": letter.text,
        "mesh.error.class": letter.kind,
        "mesh.timestamp": str(time.time_ns()),
    }
    if letter.schema_id is not None:
        added["mesh.schema.id"] = str(letter.schema_id)
    if letter.repeated:
        added["mesh.redelivery"] = "possible"
    if letter.full_bytes:
        added["mesh.value.bytes"] = str(letter.full_bytes)
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
        letter.topic,
        letter.partition,
        letter.offset,
        _text(letter.key),
        _text(letter.value),
        headers,
        letter.kind,
        letter.text,
        letter.schema_id,
        letter.full_bytes,
        letter.repeated,
    ]
    return json.dumps(fields) + "\n"


def _letter(fields: list[Any]) -> DeadLetter:
    topic, partition, offset, key, value, headers, *rest = fields
    return DeadLetter(
        topic,
        partition,
        offset,
        _bytes(key),
        _bytes(value),
        [(name, _bytes(data)) for name, data in headers],
        *rest,
    )


def _read(line: bytes) -> DeadLetter | None:
    """Return the letter of a line; None for a damaged one."""
    try:
        return _letter(json.loads(line))
    except (ValueError, TypeError):
        return None
