"""The broker under the daemon: a producer and a consumer meet through it."""

from __future__ import annotations

import contextlib
import os
import socket

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.schema_registry import Schema, SchemaRegistryClient

from tests.daemons import daemon, until

pytestmark = [pytest.mark.broker, pytest.mark.crash]

BROKER = '[workers.broker]\nworker = "workers.broker.worker:BrokerWorker"\n'


def test_messages_go_through_and_a_restart_is_another_incarnation(tmp_path):
    """Topics are there with their partitions; a killed broker comes back as a new cluster."""
    with daemon(tmp_path, BROKER, "[broker]\ntopics = { a = 3 }") as one:
        pid = one.running("broker")
        _, address = one.mesh.attach("broker").read()
        producer = Producer({"bootstrap.servers": address["bootstrap_servers"]})
        for number in range(10):
            producer.produce("a", value=b"%d" % number, partition=2)
        assert producer.flush(20) == 0
        consumer = Consumer({"bootstrap.servers": address["bootstrap_servers"], "group.id": "test"})
        consumer.assign([TopicPartition("a", 2, 0)])
        got = []
        until("ten messages", lambda: got.extend(consumer.consume(10, 0.1)) or len(got) == 10)
        assert [m.value() for m in got] == [b"%d" % n for n in range(10)]
        assert len(consumer.list_topics("a", 10).topics["a"].partitions) == 3
        consumer.close()
        assert SchemaRegistryClient({"url": address["registry_url"]}).get_subjects() == []
        os.kill(pid, 9)
        one.running("broker", other_than=pid)
        until(
            "another incarnation",
            lambda: one.mesh.attach("broker").read()[1]["incarnation"] != address["incarnation"],
        )


def test_port_taken_is_a_readable_reason(tmp_path):
    """A taken registry port: the worker is quarantined, its reason names port and remedy."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        workers = BROKER + "restart = { base_delay_s = 0.01, intensity = 1 }\n"
        with daemon(tmp_path, workers, f"[broker]\nregistry_port = {port}") as one:
            until("quarantine", lambda: one.worker("broker")["state"] == "quarantined")
            reason = one.worker("broker")["reason"]
            assert f"port {port}: Address already in use; set broker.registry_port" in reason


def test_slow_clients_do_not_stop_the_beats(tmp_path):
    """Connections that send half a request, and the first registration: the broker is no hang."""
    with daemon(tmp_path, BROKER) as one, contextlib.ExitStack() as stack:
        one.running("broker")
        _, address = one.mesh.attach("broker").read()
        host, port = address["registry_url"].removeprefix("http://").split(":")
        for _ in range(50):
            slow = stack.enter_context(socket.create_connection((host, int(port)), 10))
            slow.sendall(b"POST /subjects/x/versions HTTP/1.1\r\nContent-Length: 100\r\n\r\n")
        with SchemaRegistryClient({"url": address["registry_url"]}) as client:
            assert client.register_schema("a-value", Schema('"string"', "AVRO")) == 1
            assert client.get_subjects() == ["a-value"]
        status = until(
            "told",
            lambda: (s := one.mesh.attach("status/broker").read()[1])["schemas"] and s,
        )
        assert status["ready_s"] > 0.0
        assert one.status()["incidents"] == []
