"""TLS and SASL: right credentials are taken, each wrong one is said clearly, and healed from."""

from __future__ import annotations

from functools import partial

import pytest
from confluent_kafka import KafkaError

from tests.daemons import until
from tests.workers.ingest.secure_broker import Authority, SecureFront
from tests.workers.ingest.world import GOOD, PARTITIONS, observe, world

pytestmark = [pytest.mark.broker, pytest.mark.crash]
SECRET = "a-secret-of-its-own"
USERS = {"desk": SECRET}
FAST = "[ingest]\nregistry_backoff_s = 0.1\n"


@pytest.fixture
def authority(tmp_path):
    """Whom the clients trust."""
    return Authority(tmp_path)


def options(authority, mechanism=""):
    """What a client of ours is configured with."""
    tls = {"ssl.ca.location": str(authority.path), "security.protocol": "SSL"}
    if not mechanism:
        return tls
    return tls | {
        "security.protocol": "SASL_SSL",
        "sasl.mechanism": mechanism,
        "sasl.username": "desk",
        "sasl.password": SECRET,
    }


def front(authority, mechanism="", *, context=None, users=None):
    """What makes the front of a world."""
    users = (users or USERS) if mechanism else None
    context = context or authority.server()
    return partial(SecureFront, context=context, options=options(authority, mechanism), users=users)


def refused(one, kind, words):
    """Wait until ingest says that it is refused, and why."""

    def said():
        status = one.status()
        return status["state"] == f"degraded: {kind}" and words in status["last_error"]

    until(f"{kind}: {words}", said)


def keeps_its_secret(one, tmp_path):
    """The password is in the profile and in no other file: no log, no report, no segment."""
    for root in (tmp_path, one.mesh.path):
        for path in root.rglob("*"):
            if path.is_file() and path != one.daemon.profile:
                assert SECRET.encode() not in path.read_bytes(), path


def test_tls_is_used_and_each_wrong_certificate_is_named(tmp_path, authority):
    """Messages and dead letters go over TLS; a certificate that turns wrong is waited out."""
    wrong = {
        "unable to get local issuer certificate": Authority(tmp_path, "stranger").server(),
        "Hostname mismatch": authority.server("kafka.example"),
        "certificate has expired": authority.server(expired=True),
    }
    with world(tmp_path, FAST, front=front(authority)) as one:
        one.send([*GOOD[:300], b"poison"])
        assert one.consumed(301)["published"] == 300
        assert one.letters(1)[0].value() == b"poison"
        for words, context in wrong.items():
            one.front.change(context=context)
            refused(one, "tls", words)
            one.front.change(context=authority.server())
            before = one.status()["consumed"]
            one.send(GOOD[:30])
            one.consumed(before + 30)
        until("well again", lambda: one.status()["state"] == "running")
        assert one.status()["errors"]["tls"] >= len(wrong)
        one.unhurt()
        observe(
            "TLS: a certificate of a stranger, of another host, an expired one",
            "`degraded: tls` with the reason; right again, all goes on; no restart",
        )


def test_a_client_certificate_is_shown(tmp_path, authority):
    """Brokers that want one get it; when they no longer trust it, that is said."""
    mine = str(authority.certificate("desk"))
    given = {"ssl.certificate.location": mine, "ssl.key.location": mine}
    made = partial(
        SecureFront,
        context=authority.server(clients=authority),
        options=options(authority) | given,
    )
    with world(tmp_path, FAST, front=made) as one:
        one.send(GOOD[:30])
        one.consumed(30)
        stranger = Authority(tmp_path, "stranger")
        one.front.change(context=authority.server(clients=stranger))
        refused(one, "tls", "unknown ca")
        one.front.change(context=authority.server(clients=authority))
        one.send(GOOD[:30])
        one.consumed(60)
        one.unhurt()


@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-256"])
def test_credentials_are_used_and_wrong_ones_are_said(tmp_path, authority, mechanism):
    """SASL over TLS; a password that is changed at the brokers is waited out, and never shown."""
    with world(tmp_path, FAST, front=front(authority, mechanism)) as one:
        one.send([*GOOD[:300], b"poison"])
        assert one.consumed(301)["published"] == 300
        assert one.letters(1)[0].value() == b"poison"
        one.front.change(users={"desk": "another"})
        refused(one, "authentication", "Invalid username or password")
        until("tried again", lambda: one.status()["errors"]["authentication"] >= 3)
        tries = one.front.refused
        assert tries < 200, "a password that is tried without end gets locked"
        one.front.change(users=USERS)
        one.send(GOOD[:30])
        one.consumed(331)
        until("well again", lambda: one.status()["state"] == "running")
        one.unhurt()
        keeps_its_secret(one, tmp_path)
        observe(
            f"SASL {mechanism} over TLS: the password is changed at the brokers",
            "`degraded: authentication`; right again, all goes on; no restart, no secret in a log",
        )


def test_a_fenced_host_says_so_and_comes_back(tmp_path):
    """The brokers say that another host has its kafka.instance: no restart, and nothing twice."""
    group = '[kafka]\ngroup = "hosts"\ninstance = "host-a"\n'
    options = 'options = { "session.timeout.ms" = "6000", "heartbeat.interval.ms" = "200" }'
    with world(tmp_path, "[ingest]\nregistry_backoff_s = 0.5\n", start=False) as one:
        profile = one.daemon.profile.read_text().replace("[kafka]", group)
        one.daemon.profile.write_text(profile.replace("options = {  }", options))
        one.daemon.start()
        one.daemon.running("ingest")
        one.send(GOOD[:300])
        one.consumed(300)
        one.cluster.push_request_errors("heartbeat", [KafkaError.FENCED_INSTANCE_ID])
        refused(one, "fenced", "kafka.instance: give each host its own")
        one.send(GOOD[:300])
        one.consumed(600)
        until("well again", lambda: one.status()["state"] == "running")
        assert one.offsets() == {p: list(range(200)) for p in range(PARTITIONS)}
        assert one.status()["errors"]["fenced"] == 1
        one.unhurt()
        observe(
            "brokers say that another host has the same `kafka.instance`",
            "`degraded: fenced` with the remedy; joins again after a pause; no restart",
        )


@pytest.mark.parametrize(
    ("kind", "words"),
    [("authentication", "Invalid username"), ("tls", "expired"), ("configuration", "ssl.ca.loc")],
)
def test_a_start_that_is_refused_is_no_crash_loop(tmp_path, authority, kind, words):
    """From the start on the password, the certificate, or an option is wrong; then it is right."""
    context = authority.server(expired=kind == "tls")
    users = {"desk": "another"} if kind == "authentication" else None
    made = front(authority, "PLAIN", context=context, users=users)
    with world(tmp_path, FAST, start=False, front=made) as one:
        hidden = tmp_path / "hidden.pem"
        if kind == "configuration":
            authority.path.rename(hidden)
        one.daemon.start()
        one.daemon.running("ingest")
        refused(one, kind, words)
        if kind == "configuration":
            hidden.rename(authority.path)
        one.front.change(context=authority.server(), users=USERS)
        one.send(GOOD[:30])
        assert one.consumed(30)["errors"][kind] >= 1
        one.unhurt()
        keeps_its_secret(one, tmp_path)
