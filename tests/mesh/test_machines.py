"""State machines: whatever is done in whatever order, segments behave like plain Python models."""

from __future__ import annotations

import shutil
import tempfile

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    precondition,
    rule,
)

from mesh import LeaseHeld, LeaseLost, LockTimeout, Mesh, MeshFull, NotWritten, ProcessIdentity
from tests.mesh.actors import Actor

RECORD = np.dtype([("n", "<i8"), ("x", "<f8", (3,))])
SHORT = settings(max_examples=30, stateful_step_count=30, deadline=None)


def records(first, count):
    """Records numbered from `first`."""
    array = np.zeros(count, RECORD)
    array["n"] = np.arange(first, first + count)
    array["x"] = array["n"][:, None] / 7
    return array


class Machine(RuleBasedStateMachine):
    """A mesh of its own for every example."""

    def __init__(self):
        """Make the directory."""
        super().__init__()
        self.mesh = Mesh(tempfile.mkdtemp(prefix="mesh-machine-", dir="/dev/shm"))

    def teardown(self):
        """Take it away."""
        shutil.rmtree(self.mesh.path)


class CellMachine(Machine):
    """A cell is a variable with a version."""

    @initialize(checksum=st.booleans())
    def make(self, checksum):
        self.checksum = checksum
        self.version, self.value = 0, None
        self.open()

    def open(self):
        self.cell = self.mesh.cell("c", RECORD, create=True, checksum=self.checksum)

    @rule(n=st.integers(-(2**62), 2**62))
    def write(self, n):
        self.version += 1
        self.value = records(n, 1)
        assert self.cell.write(self.value) == self.version

    @rule()
    def writer_comes_back(self):
        self.cell.close()
        self.open()

    @rule(into=st.booleans())
    def read(self, into):
        reader = self.mesh.cell("c", RECORD)
        out = np.zeros(1, RECORD) if into else None
        try:
            version, value = reader.read(out=out)
        except NotWritten:
            assert self.version == 0
            return
        assert version == self.version
        assert np.asarray(value).tobytes() == self.value.tobytes()

    @invariant()
    def version_is_known_to_all(self):
        if hasattr(self, "cell"):
            reader = self.mesh.cell("c", RECORD)
            assert reader.version == self.version
            assert reader.wait_newer(self.version - 1 if self.version else 0, 0.0) == (
                self.version > 0
            )


class RingMachine(Machine):
    """A ring is a list of which the last `capacity` are there; each reader has a place in it."""

    readers = Bundle("readers")

    @initialize(capacity=st.integers(1, 9), checksum=st.booleans())
    def make(self, capacity, checksum):
        self.capacity, self.checksum = capacity, checksum
        self.total, self.state = 0, None
        self.open()

    def open(self):
        self.ring = self.mesh.ring(
            "r", RECORD, capacity=self.capacity, state_bytes=12, create=True, checksum=self.checksum
        )
        assert self.ring.state() == self.state

    @rule(count=st.integers(0, 9), state=st.none() | st.binary(max_size=12))
    def publish(self, count, state):
        count = min(count, self.capacity)
        assert self.ring.publish(records(self.total, count), state=state) == self.total + count - 1
        self.total += count
        self.state = self.state if state is None else state

    @rule()
    def writer_comes_back(self):
        self.ring.close()
        self.open()

    @rule(target=readers, start=st.sampled_from(["latest", "oldest"]) | st.integers(0, 30))
    def attach(self, start):
        reader = self.mesh.ring("r", RECORD).reader(start)
        oldest = max(0, self.total - self.capacity)
        place = {"latest": self.total, "oldest": oldest}.get(start, start)
        assert reader.sequence == place
        return {"reader": reader, "place": place, "lost": 0}

    @rule(one=readers, max_records=st.integers(1, 12), into=st.booleans())
    def read(self, one, max_records, into):
        oldest = max(0, self.total - self.capacity)
        one["lost"] += max(0, oldest - one["place"])
        place = max(one["place"], oldest)
        count = max(0, min(max_records, self.total - place))
        if into:
            out = np.zeros(max_records, RECORD)
            assert one["reader"].read(out=out) == count
            got = out[:count]
        else:
            got = one["reader"].read(max_records=max_records)
        assert got.tobytes() == records(place, count).tobytes()
        one["place"] = place + count
        assert (one["reader"].sequence, one["reader"].lost) == (one["place"], one["lost"])

    @rule(one=consumes(readers))
    def leave(self, one):
        del one["reader"]

    @invariant()
    def state_is_what_was_committed_last(self):
        if hasattr(self, "ring"):
            reader = self.mesh.ring("r", RECORD)
            assert (reader.state(), reader.published) == (self.state, self.total)


KEYS = st.binary(min_size=1, max_size=32).filter(lambda k: b"\0" not in k)


class TableMachine(Machine):
    """A table is a dictionary that only grows, in the order of insertion."""

    @initialize(rows=st.integers(1, 6), checksum=st.booleans())
    def make(self, rows, checksum):
        self.rows, self.checksum = rows, checksum
        self.model, self.versions = {}, {}
        self.open()

    def open(self):
        self.table = self.mesh.table(
            "t", RECORD, rows=self.rows, create=True, checksum=self.checksum
        )

    @rule(key=KEYS, n=st.integers(-99, 99))
    def write(self, key, n):
        if key not in self.model and len(self.model) == self.rows:
            try:
                self.table.write(key, records(n, 1))
            except MeshFull:
                return
            raise AssertionError("a full table took another key")
        self.versions[key] = self.versions.get(key, 0) + 1
        assert self.table.write(key, records(n, 1)) == self.versions[key]
        self.model[key] = n

    @precondition(lambda self: self.model)
    @rule(picks=st.lists(st.tuples(st.integers(0, 5), st.integers(-99, 99)), max_size=8))
    def write_batch(self, picks):
        known = list(self.model)
        batch = [(known[at % len(known)], n) for at, n in picks]
        keys = np.array([key for key, _ in batch], "S32")
        values = np.concatenate([records(n, 1) for _, n in batch] or [records(0, 0)])
        self.table.write_batch(keys, values)
        for key, n in batch:
            self.model[key] = n
            self.versions[key] += 1

    @rule()
    def writer_comes_back(self):
        self.table.close()
        self.open()

    @rule(key=KEYS)
    def unknown_key(self, key):
        if key not in self.model:
            try:
                self.table.read(key)
            except KeyError:
                return
            raise AssertionError("a key that was never written was found")

    @invariant()
    def readers_see_the_dictionary(self):
        if not hasattr(self, "table"):
            return
        reader = self.mesh.table("t", RECORD)
        snapshot = reader.snapshot()
        assert snapshot.tobytes() == b"".join(records(n, 1).tobytes() for n in self.model.values())
        for key, n in self.model.items():
            version, record = reader.read(key)
            assert (version, record["n"]) == (self.versions[key], n)


class ActorMachine(Machine):
    """A mesh and up to four processes that use it."""

    actors = Bundle("actors")

    def __init__(self):
        """Nobody is there."""
        super().__init__()
        self.living = []

    def teardown(self):
        """No process is left."""
        for actor in self.living:
            actor.kill()
        super().teardown()

    @rule(target=actors)
    @precondition(lambda self: len(self.living) < 4)
    def start(self):
        actor = Actor(self.mesh.path)
        self.living.append(actor)
        return actor


class LeaseMachine(ActorMachine):
    """Of several processes one at a time is the writer, until it closes or dies."""

    actors = ActorMachine.actors

    def __init__(self):
        """Nobody writes."""
        super().__init__()
        self.writer, self.total = None, 0

    @rule(actor=actors)
    def publish(self, actor):
        if actor not in self.living:
            return
        answer = actor.call("write", "r", RECORD, 8, records(self.total, 2))
        if self.writer in {None, actor}:
            assert answer == self.total + 1
            self.writer = actor
            self.total += 2
        else:
            assert answer in {LeaseHeld, LeaseLost}

    @rule(actor=actors)
    def close(self, actor):
        if actor in self.living and actor is self.writer:
            actor.call("close", "r")
            self.writer = None

    @rule(actor=actors)
    def kill(self, actor):
        if actor in self.living:
            dead = ProcessIdentity.of(actor.pid)
            actor.kill()
            self.living.remove(actor)
            if actor is self.writer:
                self.writer = None
                assert self.mesh.break_leases(dead) == ["r"]

    @invariant()
    def everything_published_is_there(self):
        if self.total:
            ring = self.mesh.ring("r", RECORD)
            got = ring.reader("oldest").read()
            first = max(0, self.total - 8)
            assert got.tobytes() == records(first, self.total - first).tobytes()
            owner = ring.info.owner
            assert (owner is not None and owner.is_alive()) == (self.writer is not None)
            if self.writer is not None:
                assert owner.pid == self.writer.pid


class LockMachine(ActorMachine):
    """A lock has one owner at max_records; a dead one is handed to whoever breaks it, once."""

    actors = ActorMachine.actors

    def __init__(self):
        """Free."""
        super().__init__()
        self.owner, self.dead = None, False
        self.lock = self.mesh.lock("l", create=True)

    @rule(actor=actors)
    def acquire(self, actor):
        if actor not in self.living:
            return
        answer = actor.call("acquire", "l")
        if self.owner is None:
            assert answer is None
            self.owner = actor
        else:
            assert answer is LockTimeout

    @rule(actor=actors)
    def release(self, actor):
        if actor in self.living and actor is self.owner:
            assert actor.call("release", "l") is None
            assert actor.call("release", "l") is LeaseLost
            self.owner = None

    @rule(actor=actors)
    def kill(self, actor):
        if actor in self.living:
            actor.kill()
            self.living.remove(actor)
            self.dead = self.dead or actor is self.owner

    @rule()
    def break_stale(self):
        broken = self.lock.break_stale()
        if self.dead:
            assert broken.identity.pid == self.owner.pid
            assert broken.name == f"actor {self.owner.pid}"
            self.owner, self.dead = None, False
        else:
            assert broken is None

    @invariant()
    def owner_is_known(self):
        found = self.lock.owner()
        assert (found.identity.pid if found else None) == (self.owner.pid if self.owner else None)


TestCells = CellMachine.TestCase
TestRings = RingMachine.TestCase
TestTables = TableMachine.TestCase
TestLeases = LeaseMachine.TestCase
TestLocks = LockMachine.TestCase
TestCells.settings = TestRings.settings = TestTables.settings = SHORT
TestLeases.settings = TestLocks.settings = settings(
    max_examples=12, stateful_step_count=25, deadline=None
)
