"""The registry as Confluent's own client sees it, and across a restart."""

from __future__ import annotations

import json
import threading
import urllib.error
import urllib.request

import pytest
from confluent_kafka.schema_registry import Schema, SchemaRegistryClient
from confluent_kafka.schema_registry.error import SchemaRegistryError

from workers.broker.schema_registry import RegistryServer, Schemas
from workers.contract.quote_schema import QUOTE_SCHEMA_TEXT

OTHER = json.dumps({"type": "record", "name": "Other", "fields": []})


@pytest.fixture
def registry(tmp_path):
    """A served registry; the thread stands for the worker's loop."""
    server = RegistryServer(Schemas(tmp_path / "registry.jsonl"), 0)
    done = threading.Event()

    def loop():
        while not done.is_set():
            server.serve()

    thread = threading.Thread(target=loop)
    thread.start()
    yield server
    done.set()
    thread.join()
    server.server_close()


def test_confluents_client_registers_and_finds(registry):
    """Register, look up by id, by subject and by text, as serializers do."""
    client = SchemaRegistryClient({"url": registry.url})
    schema_id = client.register_schema("quotes-value", Schema(QUOTE_SCHEMA_TEXT, "AVRO"))
    assert schema_id == 1
    assert client.register_schema("quotes-value", Schema(OTHER, "AVRO")) == 2
    fresh = SchemaRegistryClient({"url": registry.url})
    assert json.loads(fresh.get_schema(1).schema_str) == json.loads(QUOTE_SCHEMA_TEXT)
    assert fresh.get_latest_version("quotes-value").schema_id == 2
    assert fresh.lookup_schema("quotes-value", Schema(QUOTE_SCHEMA_TEXT, "AVRO")).version == 1
    assert fresh.get_subjects() == ["quotes-value"]
    with pytest.raises(SchemaRegistryError, match="40403"):
        fresh.get_schema(99)
    assert fresh.get_versions("quotes-value") == [1, 2]
    assert fresh.get_version("quotes-value", 1).schema_id == 1
    assert fresh.get_compatibility() == "NONE"
    assert fresh.test_compatibility("quotes-value", Schema(OTHER, "AVRO"))
    with pytest.raises(SchemaRegistryError, match="42203"):
        fresh.set_compatibility("quotes-value", "BACKWARD")
    with pytest.raises(SchemaRegistryError, match="40401"):
        fresh.get_latest_version("nobody-value")
    with pytest.raises(SchemaRegistryError, match="40403"):
        fresh.lookup_schema("quotes-value", Schema('"string"', "AVRO"))


def test_the_rest_of_the_api(registry):
    """Where a schema is used, its bare text, names with odd characters, unknown paths, methods."""
    client = SchemaRegistryClient({"url": registry.url})
    odd = "a/b c-value"
    for subject in ("quotes-value", odd):
        client.register_schema(subject, Schema(OTHER, "AVRO"))

    def get(path, method="GET"):
        request = urllib.request.Request(registry.url + path, method=method)
        with urllib.request.urlopen(request, timeout=10) as answer:
            return json.load(answer)

    assert get("/schemas/ids/1/subjects") == ["quotes-value", odd]
    assert get("/schemas/ids/1/versions?x=1")[0] == {"subject": "quotes-value", "version": 1}
    assert get("/schemas/ids/1/schema") == json.loads(OTHER)
    assert get("/subjects/quotes-value/versions/latest/schema") == json.loads(OTHER)
    assert get("/schemas/types") == ["AVRO"]
    assert get("/") == {}
    assert client.get_latest_version(odd).schema_id == 1
    for path, method, code in (("/nothing", "GET", 404), ("/subjects/x", "DELETE", 405)):
        with pytest.raises(urllib.error.HTTPError, match=str(code)):
            get(path, method)


def test_ids_survive_a_restart_and_a_torn_line(tmp_path):
    """What was registered keeps its id; a line cut by a crash is dropped."""
    path = tmp_path / "registry.jsonl"
    first = Schemas(path)
    assert [first.register("a", OTHER), first.register("b", QUOTE_SCHEMA_TEXT)] == [1, 2]
    with path.open("a") as file:
        file.write('["c", "{\\"ty')
    again = Schemas(path)
    assert again.subjects() == ["a", "b"]
    assert again.register("b", QUOTE_SCHEMA_TEXT) == 2
    assert again.text(1) == OTHER
    assert again.register("c", '"string"') == 3
    assert Schemas(path).id_of('"string"') == 3


NOT_AVRO = json.dumps({"schema": json.dumps({"type": "nonsense"})}).encode()
PROTOBUF = json.dumps({"schema": OTHER, "schemaType": "PROTOBUF"}).encode()


@pytest.mark.parametrize(
    "body", [b"", NOT_AVRO, PROTOBUF, b"{", b"[]", b'{"schema": 1}', b'{"schema": "no json"}', b"1"]
)
def test_garbage_is_answered_with_a_reason(registry, body):
    """A body that is no schema gets 422 with a message, and the registry goes on."""
    request = urllib.request.Request(f"{registry.url}/subjects/x/versions", data=body)
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(request, timeout=10)
    with caught.value as answer:
        assert answer.code == 422
        assert json.load(answer)["error_code"] == 42201
    assert SchemaRegistryClient({"url": registry.url}).get_subjects() == []
