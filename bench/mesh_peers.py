"""What people use instead: the same jobs with published libraries. Each is skipped where absent.

A peer publishes and reads 64-byte values. `read` gives the latest value, or the next message where
`queue` is true. Writer and reader are opened in the process that uses them, after the fork.
"""

from __future__ import annotations

import ctypes
import importlib.util
import multiprocessing
import os
import shutil
import tempfile
from multiprocessing import shared_memory
from pathlib import Path
from typing import Any

FORK = multiprocessing.get_context("fork")
SIZE = 64


class Peer:
    """One way to bring a value to another process."""

    module: str | None = None
    queue = False
    size = SIZE

    @classmethod
    def missing(cls) -> str | None:
        """What to install, or None."""
        if cls.module is None or importlib.util.find_spec(cls.module) is not None:
            return None
        return f"{cls.__name__}: skipped, pip install {cls.module}"

    def open_writer(self) -> None:
        """Open in the writing process."""

    def open_reader(self) -> None:
        """Open in the reading process."""

    def write(self, value: bytes) -> None:
        """Publish."""
        raise NotImplementedError

    def read(self) -> bytes | None:
        """Read; None where there is nothing yet."""
        raise NotImplementedError

    def close(self) -> None:
        """Take away what it made."""


class ShmLock(Peer):
    """`multiprocessing.shared_memory` under a `multiprocessing.Lock`."""

    def __init__(self) -> None:
        """Make both before the fork, as is usual."""
        self._shm = shared_memory.SharedMemory(create=True, size=4096)
        self._lock = FORK.Lock()
        self._buffer = self._shm.buf

    def write(self, value: bytes) -> None:
        """Copy under the lock."""
        with self._lock:
            self._buffer[:SIZE] = value

    def read(self) -> bytes | None:
        """Copy under the lock."""
        with self._lock:
            return bytes(self._buffer[:SIZE])

    def close(self) -> None:
        """Unlink."""
        self._buffer = None
        self._shm.close()
        self._shm.unlink()


class Pipe(Peer):
    """`multiprocessing.Pipe`."""

    queue = True

    def __init__(self) -> None:
        """One direction."""
        self._reader, self._writer = FORK.Pipe(duplex=False)

    def write(self, value: bytes) -> None:
        """Send."""
        self._writer.send_bytes(value)

    def read(self) -> bytes | None:
        """Receive, sleeping."""
        return self._reader.recv_bytes()


class MpQueue(Peer):
    """`multiprocessing.Queue`."""

    queue = True

    def __init__(self) -> None:
        """Unbounded."""
        self._queue: Any = FORK.Queue()

    def write(self, value: bytes) -> None:
        """Put."""
        self._queue.put(value)

    def read(self) -> bytes | None:
        """Get, sleeping."""
        value: bytes = self._queue.get()
        return value


class Zmq(Peer):
    """pyzmq PUSH and PULL over a unix socket."""

    module = "zmq"
    queue = True

    def __init__(self) -> None:
        """Name a socket."""
        self._directory = tempfile.mkdtemp(prefix="bench-zmq-")
        self._address = f"ipc://{self._directory}/socket"

    def _socket(self, kind: str) -> Any:
        import zmq  # noqa: PLC0415 - a context made before the fork is dead in the child

        socket = zmq.Context().socket(getattr(zmq, kind))
        socket.setsockopt(zmq.SNDHWM, 100_000)
        socket.setsockopt(zmq.RCVHWM, 100_000)
        socket.setsockopt(zmq.LINGER, 0)
        return socket

    def open_writer(self) -> None:
        """Bind."""
        self._writer = self._socket("PUSH")
        self._writer.bind(self._address)

    def open_reader(self) -> None:
        """Connect."""
        self._reader = self._socket("PULL")
        self._reader.connect(self._address)

    def write(self, value: bytes) -> None:
        """Send."""
        self._writer.send(value)

    def read(self) -> bytes | None:
        """Receive, sleeping."""
        value: bytes = self._reader.recv()
        return value

    def close(self) -> None:
        """Remove the socket."""
        shutil.rmtree(self._directory, ignore_errors=True)


class Lmdb(Peer):
    """One key in an lmdb environment on tmpfs, without syncing."""

    module = "lmdb"

    def __init__(self) -> None:
        """Name a directory."""
        self._directory = tempfile.mkdtemp(prefix="bench-lmdb-", dir="/dev/shm")

    def _open(self) -> None:
        import lmdb  # noqa: PLC0415 - an environment must not cross a fork

        self._env = lmdb.open(
            self._directory, map_size=1 << 24, writemap=True, sync=False, metasync=False
        )

    open_writer = open_reader = _open

    def write(self, value: bytes) -> None:
        """One transaction."""
        with self._env.begin(write=True) as transaction:
            transaction.put(b"k", value)

    def read(self) -> bytes | None:
        """One transaction."""
        with self._env.begin() as transaction:
            value: bytes | None = transaction.get(b"k")
            return value

    def close(self) -> None:
        """Remove the files."""
        shutil.rmtree(self._directory, ignore_errors=True)


class UltraDict(Peer):
    """A shared dictionary with its own lock."""

    module = "UltraDict"

    def __init__(self) -> None:
        """Name it."""
        self._name = f"bench{os.getpid()}x{id(self) & 0xFFFF}"

    def _open(self, *, create: bool) -> None:
        from UltraDict import UltraDict as Shared  # noqa: PLC0415 - optional

        self._dict = Shared(
            name=self._name, create=create, shared_lock=True, buffer_size=1 << 20, auto_unlink=False
        )

    def open_writer(self) -> None:
        """Make it."""
        self._open(create=True)

    def open_reader(self) -> None:
        """Attach."""
        self._open(create=False)

    def write(self, value: bytes) -> None:
        """Set."""
        self._dict["k"] = value

    def read(self) -> bytes | None:
        """Get."""
        value: bytes | None = self._dict.get("k")
        return value

    def close(self) -> None:
        """Unlink what is left of it."""
        for path in Path("/dev/shm").glob(f"*{self._name}*"):
            path.unlink(missing_ok=True)


class Iceoryx2(Peer):
    """The blackboard service of iceoryx2: one entry."""

    module = "iceoryx2"

    class Record(ctypes.Structure):
        """64 bytes."""

        _fields_ = [(f"w{i}", ctypes.c_uint64) for i in range(8)]

    def __init__(self) -> None:
        """Name the service, and a place of its own for all it keeps."""
        self._name = f"bench/{os.getpid()}/{id(self)}"
        self._directory = tempfile.mkdtemp(prefix="bench-iox2-")

    def _builder(self) -> Any:
        import iceoryx2 as iox2  # noqa: PLC0415 - optional

        iox2.set_log_level(iox2.LogLevel.Error)
        config = iox2.config.default()
        config.global_cfg.root_path = iox2.Path.new(self._directory)
        config.global_cfg.prefix = iox2.FileName.new(Path(self._directory).name + "_")
        self._node = iox2.NodeBuilder.new().config(config).create(iox2.ServiceType.Ipc)
        return self._node.service_builder(iox2.ServiceName.new(self._name))

    def open_writer(self) -> None:
        """Make the blackboard."""
        creator = self._builder().blackboard_creator(ctypes.c_uint64)
        self._blackboard = creator.add(ctypes.c_uint64(1), self.Record()).create()
        self._writer = self._blackboard.writer_builder().create()
        self._written = self._writer.entry(ctypes.c_uint64(1), self.Record)

    def open_reader(self) -> None:
        """Open it."""
        self._opened = self._builder().blackboard_opener(ctypes.c_uint64).open()
        self._reader = self._opened.reader_builder().create()
        self._read = self._reader.entry(ctypes.c_uint64(1), self.Record)

    def write(self, value: bytes) -> None:
        """Update by copy."""
        self._written.update_with_copy(self.Record.from_buffer_copy(value))

    def read(self) -> bytes | None:
        """Get by copy."""
        return bytes(self._read.get().decode_as(self.Record))

    def close(self) -> None:
        """Remove what it keeps."""
        shutil.rmtree(self._directory, ignore_errors=True)
        for path in Path("/dev/shm").glob(f"{Path(self._directory).name}_*"):
            path.unlink(missing_ok=True)


class Iceoryx2Stream(Iceoryx2):
    """The publish-subscribe service of iceoryx2, lossless; the subscriber polls."""

    queue = True
    BUFFER = 1024

    def _service(self) -> Any:
        words = ctypes.c_uint64 * (self.size // 8)
        self._type = type("Message", (ctypes.Structure,), {"_fields_": [("words", words)]})
        builder = self._builder().publish_subscribe(self._type)
        builder = builder.subscriber_max_buffer_size(self.BUFFER).enable_safe_overflow(False)
        return builder.open_or_create()

    def open_writer(self) -> None:
        """Make the service and its publisher, which waits for a full subscriber."""
        self._made = self._service()
        self._publisher = self._made.publisher_builder().create()

    def open_reader(self) -> None:
        """Subscribe."""
        self._opened = self._service()
        self._subscriber = self._opened.subscriber_builder().buffer_size(self.BUFFER).create()

    def write(self, value: bytes) -> None:
        """Copy into a loaned sample and send it."""
        self._publisher.send_copy(self._type.from_buffer_copy(value))

    def read(self) -> bytes | None:
        """Receive and copy out."""
        sample = self._subscriber.receive()
        if sample is None:
            return None
        value = ctypes.string_at(sample.payload_ptr, self.size)
        sample.delete()
        return value


LATEST = (ShmLock, Lmdb, UltraDict, Iceoryx2)
POLLED = (ShmLock, Iceoryx2Stream)
SLEEPING = (Pipe, MpQueue, Zmq)
QUEUES = (*SLEEPING, Iceoryx2Stream)
