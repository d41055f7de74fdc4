"""The fault switches: each fault is seen by a client, and ends when it is told to."""

from __future__ import annotations

import http.client
import json
import urllib.error
import urllib.request

import pytest
from confluent_kafka import Producer

from tests.daemons import daemon, until

pytestmark = [pytest.mark.broker, pytest.mark.crash]
BROKER = '[workers.broker]\nworker = "workers.broker.worker:BrokerWorker"\n'


def switch(url, faults, method="PUT"):
    """Put faults, as a test in any other process does; gives the answer."""
    body = json.dumps(faults).encode() if faults is not None else None
    request = urllib.request.Request(url, data=body, method=method)
    with urllib.request.urlopen(request, timeout=10) as answer:
        return json.load(answer)


def produced(servers, topic="quotes"):
    """The error of one message, or None where it was delivered, within two seconds."""
    producer = Producer({"bootstrap.servers": servers, "message.timeout.ms": 2000, "log_level": 0})
    errors = []
    producer.produce(topic, b"x", partition=0, on_delivery=lambda error, _: errors.append(error))
    producer.flush(10)
    return errors[0]


def test_switches_make_and_end_every_fault(tmp_path):
    """Registry: 503, Retry-After, nonsense, half an answer, none; broker: down, a dead topic."""
    with daemon(tmp_path, BROKER, "[broker]\nfault_switches = true\n") as one:
        one.running("broker")
        _, address = one.mesh.attach("broker").read()
        url, registry = address["fault_switches"], address["registry_url"]

        def subjects():
            with urllib.request.urlopen(f"{registry}/subjects", timeout=10) as answer:
                return json.load(answer)

        assert subjects() == []
        switch(url, {"registry": {"status": 503, "count": 1, "retry_after_s": 7}})
        with pytest.raises(urllib.error.HTTPError, match="503") as caught:
            subjects()
        with caught.value as answer:
            assert answer.headers["Retry-After"] == "7"
        assert subjects() == []
        for garbage, kind in (
            ("text", json.JSONDecodeError),
            ("cut", http.client.IncompleteRead),
            ("drop", http.client.RemoteDisconnected),
        ):
            switch(url, {"registry": {"garbage": garbage}})
            with pytest.raises(kind):
                subjects()
        assert switch(url, None, "GET")["injected"] == 4
        assert switch(url, None, "DELETE")["faults"]["registry"]["garbage"] == ""
        assert subjects() == []
        servers = address["bootstrap_servers"]
        assert produced(servers) is None
        switch(url, {"broker": {"down": True}})
        assert produced(servers) is not None
        switch(url, {"broker": {"topic_errors": {"quotes.dead": 3}}})
        assert produced(servers) is None
        assert produced(servers, "quotes.dead") is not None
        switch(url, {})
        assert produced(servers, "quotes.dead") is None
        with pytest.raises(urllib.error.HTTPError, match="422"):
            switch(url, {"broker": {"dwon": True}})
        with pytest.raises(urllib.error.HTTPError, match="422"):
            switch(url, {"broker": {"request_errors": {"dance": [1]}}})
        until("told", lambda: one.mesh.attach("status/broker").read()[1]["faults_injected"] == 4)


def test_without_the_setting_there_are_no_switches(tmp_path):
    """By default nobody can make a fault: the path does not exist."""
    with daemon(tmp_path, BROKER) as one:
        one.running("broker")
        _, address = one.mesh.attach("broker").read()
        assert address["fault_switches"] == ""
        with pytest.raises(urllib.error.HTTPError, match="404"):
            switch(address["registry_url"] + "/admin/faults", {})
        status = one.mesh.attach("status/broker").read()[1]
        assert status["partition_bytes"] == address["partition_bytes"] == 5 << 20
        assert not status["persistent"]
