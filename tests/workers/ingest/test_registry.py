"""Schemas by id: one request an id and interval, and none after a restart."""

from __future__ import annotations

import itertools
import threading

import pytest

from workers.broker.schema_registry import RegistryServer, Schemas
from workers.ingest.decode.registry import SchemaRegistry
from workers.ingest.errors import RegistryUnavailable, SchemaUnknown

SCHEMA = '{"type": "string"}'


@pytest.fixture
def server(tmp_path):
    """A served registry with one schema."""
    one = RegistryServer(Schemas(tmp_path / "registry.jsonl"), 0)
    one.schemas.register("quotes-value", SCHEMA)
    done = threading.Event()

    def loop():
        while not done.is_set():
            one.serve()

    thread = threading.Thread(target=loop)
    thread.start()
    yield one
    done.set()
    thread.join()
    one.server_close()


def test_known_schema_is_asked_for_once_and_then_on_disk(server, tmp_path):
    """One request for any number of messages; a restart reads the disk, registry or not."""
    registry = SchemaRegistry(server.url, tmp_path / "cache", 60.0)
    assert [registry.schema(1) for _ in range(5)] == [SCHEMA] * 5
    assert registry.requests == 1
    again = SchemaRegistry("http://127.0.0.1:9", tmp_path / "cache", 60.0)
    assert again.schema(1) == SCHEMA
    assert again.requests == 0


def test_unknown_id_costs_one_request_an_interval(server, tmp_path):
    """Fifty poison messages: one request; after the interval one more."""
    now = [0.0]
    registry = SchemaRegistry(server.url, tmp_path / "cache", 60.0, clock=lambda: now[0])
    for _ in range(50):
        with pytest.raises(SchemaUnknown, match="99"):
            registry.schema(99)
    assert registry.requests == 1
    now[0] = 61.0
    with pytest.raises(SchemaUnknown):
        registry.schema(99)
    assert registry.requests == 2


def test_outage_is_not_unknown(server, tmp_path):
    """503, nobody there: RegistryUnavailable, and afterwards the schema is had."""
    registry = SchemaRegistry(server.url, tmp_path / "cache", 60.0)
    server.failing = 1
    with pytest.raises(RegistryUnavailable, match="503"):
        registry.schema(1)
    with pytest.raises(RegistryUnavailable):
        SchemaRegistry("http://127.0.0.1:9", tmp_path / "other", 60.0).schema(1)
    assert registry.schema(1) == SCHEMA


def test_a_failing_registry_is_left_alone_longer_and_longer(server, tmp_path):
    """Between two tries nothing is asked; the pause doubles, and one answer ends it."""
    now, tries = [0.0], []
    registry = SchemaRegistry(
        server.url, tmp_path / "cache", 60.0, clock=lambda: now[0], backoff_s=1.0
    )
    server.failing = 4
    while len(tries) < 4:
        with pytest.raises(RegistryUnavailable, match="503"):
            registry.schema(1)
        if registry.requests > len(tries):
            tries.append(now[0])
        now[0] += 0.1
    pauses = [after - before for before, after in itertools.pairwise(tries)]
    for number, pause in enumerate(pauses):
        assert 0.5 * 2**number <= pause <= 2**number + 0.1
    now[0] += 30.0
    assert registry.schema(1) == SCHEMA
    assert registry.requests == 5
