"""Processes of a test that do what they are told, one call at a time, until they are killed."""

from __future__ import annotations

import os
import pickle
import signal
import struct

from mesh import Mesh, MeshError


class Actor:
    """A forked process with a mesh of its own; `call` runs a method of this class in it."""

    def __init__(self, path):
        """Fork."""
        self._commands, commands = os.pipe()
        answers, self._answers = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            self._objects = {}
            self._mesh = Mesh(path)
            os.close(commands)
            self._serve()
        os.close(self._commands)
        os.close(self._answers)
        self._commands, self._answers = commands, answers

    def call(self, method, *arguments):
        """Run a method in the process: its result, or the type of the MeshError it raised."""
        _send(self._commands, (method, arguments))
        return _receive(self._answers)

    def kill(self):
        """SIGKILL, and wait for the end."""
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        os.close(self._commands)
        os.close(self._answers)

    def _serve(self):
        while True:
            try:
                method, arguments = _receive(self._commands)
                answer = getattr(self, method)(*arguments)
            except MeshError as error:
                answer = type(error)
            except BaseException:  # noqa: BLE001 - the parent closed the pipe, or a test is wrong
                os._exit(1)
            _send(self._answers, answer)

    # --- what an actor can do, in its own process -------------------------------------------

    def write(self, name, dtype, capacity, values):
        """Become the writer of a ring, if it is not yet, and publish; the last sequence."""
        if name not in self._objects:
            self._objects[name] = self._mesh.ring(name, dtype, capacity=capacity, create=True)
        return self._objects[name].publish(values)

    def close(self, name):
        """Release the lease."""
        self._objects.pop(name).close()

    def acquire(self, name):
        """Take a lock that must be free now."""
        if name not in self._objects:
            self._objects[name] = self._mesh.lock(
                name, create=True, owner_name=f"actor {os.getpid()}"
            )
        self._objects[name].acquire(0.0)

    def release(self, name):
        """Release a lock."""
        self._objects[name].release()


def _send(fd, value):
    data = pickle.dumps(value)
    os.write(fd, struct.pack("<I", len(data)) + data)


def _receive(fd):
    (size,) = struct.unpack("<I", os.read(fd, 4))
    return pickle.loads(os.read(fd, size))
