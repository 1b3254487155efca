"""What only a log on Kafka knows: topics that fit, brokers that are away, envelopes."""

import json
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from cloudevents.v1.kafka import KafkaMessage, from_binary
from hypothesis import given, settings
from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer
from kafka.errors import LogTruncationError
from kafka.structs import OffsetAndMetadata

from alerts.worker import AlertsWorker
from deploy.config.settings_file import read_settings
from deploy.config.storage_locations import storage_locations
from kit.certificates import mutual_tls, self_signed
from kit.deploy.command import longwatch
from kit.ingest.fixtures import free_port
from kit.kafka.broker import Broker, run_broker
from kit.storage.fixtures import a_finding, an_incident
from storage.db.alert_store import AlertStore
from storage.errors import OffsetOutOfRange, StorageDown, StorageUnfit, TooLarge
from storage.log.kafka.client.config import KafkaConfig, Sasl, Tls
from storage.log.kafka.client.network import to_topic_partition
from storage.log.kafka.log import KafkaLog
from storage.records import cloudevents
from storage.records.claims import Claim, encode_claim
from storage.records.records import CoverageState, Finding
from storage.records.topics import COVERAGE, DEAD_LETTERS, FINDINGS, INCIDENTS, WINDOWS
from storage.records.wire import decode_dead_letter, encode_finding, encode_incident
from test_storage_wire import findings

SCHEMAS = Path(cloudevents.__file__).parent / "schemas"
CLAIM = Claim(camera="dock", start=None, end=a_finding().end, state=CoverageState.SHED)
VALUES = {
    FINDINGS: encode_finding(a_finding()),
    INCIDENTS: encode_incident(an_incident()),
    COVERAGE: encode_claim(CLAIM),
}


@contextmanager
def opened(kafka_config: KafkaConfig) -> Iterator[KafkaLog]:
    with closing(KafkaLog(kafka_config)) as log:
        yield log


def messages(broker: Broker, kafka_config: KafkaConfig, topic: str, count: int) -> list[Any]:
    consumer = KafkaConsumer(
        kafka_config.prefix + topic,
        bootstrap_servers=f"127.0.0.1:{broker.port}",
        auto_offset_reset="earliest",
        enable_auto_commit=False,
        group_id=None,
    )
    found = [message for _, message in zip(range(count), consumer, strict=False)]
    consumer.close()
    return found


def test_topics_are_made_as_they_have_to_be(kafka: Broker) -> None:
    kafka_config = kafka.place(partitions=3)
    KafkaLog(kafka_config).close()
    KafkaLog(kafka_config).close()
    admin = KafkaAdminClient(bootstrap_servers=kafka_config.bootstrap[0])
    (windows,) = admin.describe_topics([kafka_config.prefix + WINDOWS])
    admin.close()
    assert len(windows["partitions"]) == 3


@pytest.mark.parametrize(
    ("made", "asked", "told"),
    [
        ({"partitions": 3}, {"partitions": 4}, "has 3 partitions, log.kafka.partitions says 4"),
        ({"largest": 10**6}, {"largest": 2 * 10**6}, "max.message.bytes is 1000000, 2000000 is"),
    ],
)
def test_a_topic_that_does_not_fit_is_refused_with_what_to_do(
    kafka: Broker, made: dict[str, Any], asked: dict[str, Any], told: str
) -> None:
    kafka_config = kafka.place(**made)
    KafkaLog(kafka_config).close()
    with pytest.raises(StorageUnfit, match=told):
        KafkaLog(replace(kafka_config, **asked))


def test_a_topic_that_keeps_less_than_asked_is_refused(kafka: Broker) -> None:
    kafka_config = kafka.place()
    short = tuple(replace(kept, keep_for=timedelta(hours=1)) for kept in kafka_config.retention)
    KafkaLog(replace(kafka_config, retention=short)).close()
    with pytest.raises(StorageUnfit, match=r"retention\.ms is 3600000, .* kafka-configs\.sh"):
        KafkaLog(kafka_config)
    long = tuple(replace(kept, keep_for=timedelta(minutes=1)) for kept in kafka_config.retention)
    KafkaLog(replace(kafka_config, retention=long)).close()  # it keeps more than this asks for


def test_a_broker_that_is_away_is_named(kafka: Broker) -> None:
    away = replace(kafka.place(timeout=1.0), bootstrap=(f"127.0.0.1:{free_port()}",))
    with pytest.raises(StorageDown, match="connection refused"):
        KafkaLog(away)


@pytest.mark.parametrize(("there", "end"), [(OffsetAndMetadata(1, "", 0), 1), (None, 2)])
def test_what_a_new_leader_never_had_is_told_and_read_from_there(
    there: OffsetAndMetadata | None, end: int, kafka: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened(kafka.place(partitions=1)) as log:
        log.append(WINDOWS, "dock", b"a", b"b", b"c")
        partition = log.partition_for(WINDOWS, "dock")
        assert len(log.read(partition, 0)) == 3
        consumer = log._get_reader(WINDOWS)._consumer
        poll, where = consumer._poll_once, to_topic_partition(log._config, partition)

        def truncated(*_: object) -> None:
            """Answer as a leader that never had them would; there is one broker here."""
            monkeypatch.setattr(consumer, "_poll_once", poll)
            raise LogTruncationError({where: there})

        monkeypatch.setattr(consumer, "_poll_once", truncated)
        with pytest.raises(OffsetOutOfRange, match=f"ends at {end}, before 3"):
            log.read(partition, 3)
        assert [entry.value for entry in log.read(partition, end)] == [b"a", b"b", b"c"][end:]
        assert log.read(partition, 3) == []


def test_value_that_is_too_large_is_refused_and_the_next_is_kept(kafka: Broker) -> None:
    with opened(kafka.place(largest=100_000)) as log:
        partition = log.partition_for(WINDOWS, "dock")
        with pytest.raises(TooLarge, match="a value of 100000 bytes"):
            log.append(WINDOWS, "dock", b"small", b"x" * 100_000)
        log.append(WINDOWS, "dock", b"next")
        assert [entry.value for entry in log.read(partition, 0)] == [b"next"]


@pytest.mark.slow
def test_what_was_appended_outlives_a_restart_of_the_broker() -> None:
    with run_broker() as broker, opened(broker.place(timeout=5.0)) as log:
        partition = log.partition_for(FINDINGS, "dock")
        log.append(FINDINGS, "dock", b"before")
        broker.stop()
        with pytest.raises(StorageDown):
            log.append(FINDINGS, "dock", b"lost")
        broker.start()
        until_done(lambda: log.append(FINDINGS, "dock", b"after"))
        values = [entry.value for entry in log.read(partition, 0)]
        assert (values[0], values[-1]) == (b"before", b"after")


def until_done(act: Callable[[], object]) -> None:
    for _ in range(20):
        try:
            act()
        except StorageDown:
            threading.Event().wait(0.2)
        else:
            return
    raise AssertionError("it stays away")


def test_topic_that_is_made_again_is_read_from_its_start(kafka: Broker, store: AlertStore) -> None:
    kafka_config = kafka.place(partitions=1)
    with opened(kafka_config) as log:
        log.append(FINDINGS, "dock", *(encode_finding(a_finding(n)) for n in range(2)))
        AlertsWorker(log, store, [], lambda _: None).run_once()
    admin = KafkaAdminClient(bootstrap_servers=kafka_config.bootstrap[0])
    admin.delete_topics([kafka_config.prefix + FINDINGS])
    admin.close()
    with opened(kafka_config) as log:
        log.append(FINDINGS, "dock", *(encode_finding(a_finding(n)) for n in range(2, 6)))
        AlertsWorker(log, store, [], lambda _: None).run_once()
    assert store.counts().findings == 6


def test_no_secret_is_shown(tmp_path: Path) -> None:
    sasl = Sasl(mechanism="PLAIN", user="longwatch", password="c4n4ry")
    kafka_config = KafkaConfig(bootstrap=(f"127.0.0.1:{free_port()}",), sasl=sasl, timeout=1.0)
    assert "c4n4ry" not in repr(kafka_config)
    with pytest.raises(StorageDown) as error:
        KafkaLog(kafka_config)
    assert "c4n4ry" not in str(error.value)


@pytest.fixture(scope="module")
def closed_broker() -> Iterator[Broker]:
    """A broker that asks for a password and knows nobody."""
    protocols = "CONTROLLER:PLAINTEXT,CLIENT:SASL_PLAINTEXT,INTER:PLAINTEXT"
    settings = {
        "listener.security.protocol.map": protocols,
        "sasl.enabled.mechanisms": "SCRAM-SHA-512",
        "listener.name.client.scram-sha-512.sasl.jaas.config": (
            "org.apache.kafka.common.security.scram.ScramLoginModule required;"
        ),
    }
    with run_broker(settings=settings) as broker:
        yield broker


@pytest.mark.parametrize("mechanism", ["SCRAM-SHA-512", None])
def test_a_broker_that_lets_nobody_in_says_where_to_look(
    closed_broker: Broker, mechanism: str | None
) -> None:
    sasl = Sasl(mechanism=mechanism, user="longwatch", password="c4n4ry") if mechanism else None
    with pytest.raises(StorageUnfit, match=r"log\.kafka\.sasl") as raised:
        KafkaLog(closed_broker.place(sasl=sasl, timeout=2.0))
    assert "c4n4ry" not in str(raised.value)


@pytest.mark.slow
def test_everything_goes_over_tls_where_it_is_asked_for(tmp_path: Path) -> None:
    """A session with a broker, the commands as well; each side shows a certificate."""
    server, client = self_signed(tmp_path, "broker"), self_signed(tmp_path, "longwatch")
    site = tmp_path / "site.yaml"
    tls = f"{{ca: {server.certificate}, certificate: {client.certificate}, key: {client.key}}}"
    with run_broker(settings=mutual_tls(server, client)) as broker:
        kafka = f'{{bootstrap: ["{broker.address}"], partitions: 1, tls: {tls}}}'
        site.write_text(
            "cameras: {dock: {url: 'rtsp://127.0.0.1/x'}}\n"
            "questions: {any: {ask: 'Is it?', every: 16s}}\n"
            f"log: {{kafka: {kafka}}}\n"
        )
        place = storage_locations(read_settings(site)).log
        assert isinstance(place, KafkaConfig)
        with opened(place) as log:
            log.append(FINDINGS, "dock", VALUES[FINDINGS])
            partition = log.partition_for(FINDINGS, "dock")
            assert [entry.value for entry in log.read(partition, 0)] == [VALUES[FINDINGS]]
            log.commit("reader", partition, 1)
            assert log.committed("reader", partition) == 1
        words = ["--from-start", "--limit", "1", "--json"]
        shown = longwatch("tail", "findings", "-c", site, *words)
        assert json.loads(shown.stdout)["camera"] == "dock"
        stranger = replace(place, tls=Tls(ca=server.certificate), timeout=2.0)
        with pytest.raises((StorageDown, StorageUnfit)):
            KafkaLog(stranger)


def test_an_expired_certificate_is_named(tmp_path: Path) -> None:
    certificate, key, port = tmp_path / "c.pem", tmp_path / "k.pem", free_port()
    _sign_in_the_past(certificate, key)
    site = tmp_path / "site.yaml"
    kafka = f'{{bootstrap: ["127.0.0.1:{port}"], timeout: 1s, tls: {{ca: {certificate}}}}}'
    site.write_text(
        "cameras: {dock: {url: 'rtsp://127.0.0.1/x'}}\n"
        f"questions: {{any: {{ask: 'Is it?', every: 16s}}}}\nlog: {{kafka: {kafka}}}\n"
    )
    serve = ["openssl", "s_server", "-quiet", "-accept", str(port)]
    with subprocess.Popen(
        [*serve, "-cert", certificate, "-key", key],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as server:
        ended = longwatch("tail", "findings", "-c", site)
        server.kill()
    assert ended.returncode == 1
    assert "does not answer (certificate has expired)" in ended.stderr


def _sign_in_the_past(certificate: Path, key: Path) -> None:
    folder = certificate.parent
    (folder / "index.txt").touch()
    (folder / "serial").write_text("01")
    (folder / "ca.cnf").write_text(
        f"[ca]\ndefault_ca=d\n[d]\ndatabase={folder}/index.txt\nserial={folder}/serial\n"
        f"new_certs_dir={folder}\ndefault_md=sha256\npolicy=p\nx509_extensions=x\n"
        "[p]\ncommonName=supplied\n[x]\nsubjectAltName=IP:127.0.0.1\nbasicConstraints=CA:TRUE\n"
        "[req]\ndistinguished_name=n\n[n]\n"
    )
    request = folder / "r.pem"
    for words in (
        ["req", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=127.0.0.1", "-keyout", key]
        + ["-out", request, "-config", folder / "ca.cnf"],
        ["ca", "-batch", "-selfsign", "-keyfile", key, "-in", request, "-out", certificate]
        + ["-config", folder / "ca.cnf", "-startdate", "20200101000000Z"]
        + ["-enddate", "20200102000000Z", "-notext"],
    ):
        subprocess.run(["openssl", *map(str, words)], capture_output=True, check=True)


def test_files_of_tls_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    kafka_config = KafkaConfig(bootstrap=("127.0.0.1:1",), tls=Tls(ca=tmp_path / "none.pem"))
    with pytest.raises(StorageUnfit, match=r"none\.pem: no such file"):
        KafkaLog(kafka_config)
    (tmp_path / "bad.pem").write_text("no certificate")
    bad = replace(kafka_config, tls=Tls(certificate=tmp_path / "bad.pem"))
    with pytest.raises(StorageUnfit, match=r"log\.kafka\.tls"):
        KafkaLog(bad)


@pytest.mark.parametrize("topic", list(VALUES))
def test_messages_are_cloudevents_with_a_schema(kafka: Broker, topic: str) -> None:
    place = replace(kafka.place(), site="hamburg")
    with opened(place) as log:
        log.append(topic, "dock", VALUES[topic], VALUES[topic])
    first, again = messages(kafka, place, topic, 2)
    assert first.headers == again.headers  # the same fact has the same id
    headers = dict(first.headers)
    event = from_binary(KafkaMessage(headers=headers, key=first.key, value=first.value))
    assert event["type"] == f"longwatch.{topic.removesuffix('s')}.v1"
    assert event["source"] == "/longwatch/hamburg/cameras/dock"
    schema = json.loads((SCHEMAS / cloudevents.SCHEMAS[topic][0]).read_text())
    jsonschema.validate(json.loads(first.value), schema)


@settings(max_examples=60, deadline=None)
@given(finding=findings())
def test_every_finding_that_can_be_written_fits_its_schema(finding: Finding) -> None:
    schema = json.loads((SCHEMAS / cloudevents.SCHEMAS[FINDINGS][0]).read_text())
    value = encode_finding(finding)
    jsonschema.validate(json.loads(value), schema)
    assert (
        dict(cloudevents.build_headers(FINDINGS, finding.camera, value))["ce_id"]
        == finding.id.encode()
    )


@pytest.mark.parametrize(
    ("site", "camera", "source"),
    [
        ("", "dock", "/longwatch/cameras/dock"),
        ("hamburg", "dock", "/longwatch/hamburg/cameras/dock"),
        ("a b/c", "d?\r\n", "/longwatch/a%20b%2Fc/cameras/d%3F%0D%0A"),
    ],
)
def test_source_of_an_event_names_the_site(site: str, camera: str, source: str) -> None:
    headers = cloudevents.build_headers(FINDINGS, camera, VALUES[FINDINGS], site)
    assert dict(headers)["ce_source"] == source.encode()


@pytest.mark.parametrize("value", [b"", b"\xff", b"[]", b"{}", b'{"version":9}'])
def test_what_is_no_event_has_no_envelope(value: bytes) -> None:
    assert cloudevents.build_headers(FINDINGS, "dock", value) == []
    assert cloudevents.build_headers(WINDOWS, "dock", VALUES[FINDINGS]) == []


def test_poison_goes_to_dead_and_the_next_is_judged(kafka: Broker, store: AlertStore) -> None:
    newer = VALUES[FINDINGS].replace(b'"version":1', b'"version":2')
    kafka_config = kafka.place()
    with opened(kafka_config) as log:
        log.append(FINDINGS, "dock", b"\x00poison", newer)
        producer = KafkaProducer(bootstrap_servers=kafka_config.bootstrap[0])  # a stranger, no key
        producer.send(kafka_config.prefix + FINDINGS, b"stranger").get(10)
        producer.close()
        log.append(FINDINGS, "dock", VALUES[FINDINGS])
        worker = AlertsWorker(log, store, [], lambda _: None)
        while worker.run_once():
            pass
        dead = [
            decode_dead_letter(entry.value)
            for partition in log.partitions(DEAD_LETTERS)
            for entry in log.read(partition, 0)
        ]
    assert sorted(each.value for each in dead) == sorted([b"\x00poison", newer, b"stranger"])
    assert any("version 2, not 1" in each.reason for each in dead)
    assert store.counts().findings == 1
