"""Topics of Kafka as they should be: made, checked, added to, deleted, and made again."""

import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from acl_broker import PASSWORD, acl_broker, sasl_of
from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer
from kafka.admin import ConfigResource, ConfigResourceType
from kafka_broker import Broker, cluster, running
from storage_fixtures import a_finding
from structlog.testing import capture_logs

from alerts.added_parts import AddedParts
from alerts.worker import AlertsWorker
from storage import kafka_log
from storage.errors import StorageDown, StorageUnfit
from storage.incidents import Cursor, IncidentStore
from storage.kafka_configuration import blemishes, configuration, losses
from storage.kafka_log import KafkaLog
from storage.kafka_place import KafkaPlace
from storage.kafka_topics import check_topics
from storage.log import COVERAGE, FINDINGS, INCIDENTS, REQUESTS, WINDOWS, now_for
from storage.retention import RETENTION, Retention
from storage.wire import encode_finding

MIB = 2**20
PLACE = KafkaPlace(bootstrap=("kafka:9092",))
ROOT = Path(__file__).parents[1]


def kept(**words: Any) -> Retention:
    values = {"topic": WINDOWS, "keep_bytes": 2**31, "keep_for": timedelta(hours=24)}
    return Retention(**(values | words))


@contextmanager
def opened(place: KafkaPlace, **words: bool) -> Iterator[KafkaLog]:
    with closing(KafkaLog(place, **words)) as log:
        yield log


@contextmanager
def administering(broker: Broker) -> Iterator[KafkaAdminClient]:
    admin = KafkaAdminClient(bootstrap_servers=broker.address)
    try:
        yield admin
    finally:
        admin.close()


def make(broker: Broker, place: KafkaPlace, topics: Mapping[str, int], **configs: str) -> None:
    """Make topics of so many partitions, as somebody else would."""
    with administering(broker) as admin:
        news = {
            place.prefix + topic: {
                "num_partitions": count,
                "replication_factor": 1,
                "configs": {"max.message.bytes": str(place.largest)}
                | {name.replace("_", "."): value for name, value in configs.items()},
            }
            for topic, count in topics.items()
        }
        admin.create_topics(news, wait_for_metadata=True)


def all_topics(partitions: int) -> dict[str, int]:
    return {each.topic: partitions for each in RETENTION}


def grow(broker: Broker, place: KafkaPlace, topic: str, partitions: int) -> None:
    with administering(broker) as admin:
        admin.create_partitions({place.prefix + topic: partitions})
        wait_until(lambda: partitions_of(admin, place, topic) == partitions)


def partitions_of(admin: KafkaAdminClient, place: KafkaPlace, topic: str) -> int:
    return len(admin.describe_topics([place.prefix + topic])[0]["partitions"])


def write(broker: Broker, place: KafkaPlace, topic: str, partition: int, *values: bytes) -> None:
    """Write as a foreign producer does."""
    producer = KafkaProducer(bootstrap_servers=broker.address)
    for value in values:
        producer.send(place.prefix + topic, value, key=b"dock", partition=partition).get(10)
    producer.close()


def wait_until(is_done: Callable[[], object], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not is_done():
        assert time.monotonic() < deadline, "it does not come"
        time.sleep(0.05)


def said(lines: list[Any], event: str) -> list[Any]:
    return [each for each in lines if each["event"] == event]


@pytest.mark.parametrize(
    ("asked", "largest", "bytes_", "milliseconds"),
    [
        (kept(), 8 * MIB, 2**31 // 10, 8_640_000),
        (kept(keep_bytes=16 * MIB), 8 * MIB, 8 * MIB, 8_640_000),  # never below a message
        (kept(keep_bytes=MIB), 100_000, MIB, 8_640_000),  # nor below what Kafka takes
        (kept(keep_bytes=2**40), 8 * MIB, 2**30, 8_640_000),  # nor beyond 32 bits
        (kept(keep_for=timedelta(seconds=16)), 8 * MIB, 2**31 // 10, 10_000),
    ],
)
def test_segments_follow_from_what_is_kept(
    asked: Retention, largest: int, bytes_: int, milliseconds: int
) -> None:
    found = configuration(replace(PLACE, largest=largest), asked, replicas=1)
    assert (found["segment.bytes"], found["segment.ms"]) == (str(bytes_), str(milliseconds))


@pytest.mark.parametrize(("replicas", "insync"), [(1, "1"), (2, "1"), (3, "2"), (5, "2")])
def test_two_replicas_have_what_is_acknowledged_where_there_are_three(
    replicas: int, insync: str
) -> None:
    assert configuration(PLACE, kept(), replicas)["min.insync.replicas"] == insync


@pytest.mark.parametrize(
    ("key", "value", "is_lost", "is_said"),
    [
        ("cleanup.policy", "compact", True, False),
        ("cleanup.policy", "compact,delete", True, False),
        ("max.message.bytes", "1000", True, False),
        ("max.message.bytes", str(2**30), False, False),
        ("segment.bytes", str(4 * MIB), True, False),
        ("segment.bytes", str(16 * MIB), False, False),
        ("segment.bytes", str(2**30), False, True),
        ("segment.ms", "604800000", False, True),
        ("retention.ms", "3600000", True, False),
        ("retention.ms", "-1", False, True),
        ("retention.ms", "86400001", False, True),
        ("retention.bytes", "-1", False, True),
        ("message.timestamp.type", "CreateTime", False, True),
        ("min.insync.replicas", "1", False, True),
        ("min.insync.replicas", "3", False, False),
        ("min.insync.replicas", None, False, False),  # hidden from us
    ],
)
def test_a_topic_is_refused_where_it_loses_and_said_where_it_is_worse(
    key: str, value: str | None, is_lost: bool, is_said: bool
) -> None:
    wanted = configuration(PLACE, kept(), replicas=3)
    found = {**wanted, key: value}
    assert [each.key for each in losses(wanted, found)] == [key] * is_lost
    assert [each.key for each in blemishes(wanted, found)] == [key] * is_said


@pytest.mark.parametrize(
    ("setting", "windows", "others"),
    [("auto", None, "gzip"), ("none", None, None), ("zstd", "zstd", "zstd")],
)
def test_stills_are_not_compressed_and_what_others_read_is_gzip(
    setting: str, windows: str | None, others: str | None
) -> None:
    place = replace(PLACE, compression=setting)
    assert place.compression_of(WINDOWS) == windows
    assert {place.compression_of(each) for each in (FINDINGS, INCIDENTS, COVERAGE)} == {others}


def test_topics_are_made_as_they_should_be_and_nothing_is_said(kafka: Broker) -> None:
    place = kafka.place(partitions=3)
    with capture_logs() as lines, opened(place):
        pass
    assert lines == []
    with capture_logs() as lines, opened(place):
        pass
    assert lines == []
    names = [place.prefix + each.topic for each in place.retention]
    with administering(kafka) as admin:
        found = {each["name"]: len(each["partitions"]) for each in admin.describe_topics(names)}
        asked = [ConfigResource(ConfigResourceType.TOPIC, name) for name in names]
        configs = admin.describe_configs(asked, config_filter="all")["topic"]
    assert found == dict.fromkeys(names, 3)
    for each in place.retention:
        wanted = configuration(place, each, replicas=1)
        has = configs[place.prefix + each.topic]
        assert {key: has[key]["value"] for key in wanted} == wanted


def test_a_record_of_each_topic_has_the_codec_that_fits(kafka: Broker) -> None:
    place = kafka.place(partitions=1)
    with opened(place) as log:
        for topic in (WINDOWS, FINDINGS):
            log.append(topic, "dock", b"x" * 10_000)
    sizes = {}
    for topic in (WINDOWS, FINDINGS):
        (file,) = kafka.folder.glob(f"data/{place.prefix}{topic}-0/*.log")
        sizes[topic] = file.stat().st_size
    assert sizes[WINDOWS] > 10_000
    assert sizes[FINDINGS] < 1000


def test_a_topic_of_others_is_used_and_one_command_sets_it_right(kafka: Broker) -> None:
    place = kafka.place(partitions=1, replication=None)
    make(kafka, place, all_topics(1), retention_ms="-1", segment_bytes=str(2**30))
    with capture_logs() as lines, opened(place) as log:
        log.append(FINDINGS, "dock", b"it works")
    warned = said(lines, "a topic is not as it should be")
    assert {each["topic"] for each in warned} == {place.prefix + each.topic for each in RETENTION}
    (windows,) = (each for each in warned if each["topic"] == f"{place.prefix}windows")
    assert "message.timestamp.type is CreateTime, LogAppendTime is needed" in windows["reason"]
    assert "retention.ms is -1, 86400000 is needed" in windows["reason"]
    tool, *words = shlex.split(windows["change"])
    assert tool == "kafka-configs.sh"
    kafka.run("kafka.admin.ConfigCommand", *words)
    with capture_logs() as lines, opened(place):
        pass
    warned = said(lines, "a topic is not as it should be")
    assert len(warned) == len(RETENTION) - 1


def test_who_only_reads_says_nothing_and_makes_nothing(kafka: Broker) -> None:
    place = kafka.place(partitions=1)
    with pytest.raises(StorageUnfit, match="coverage: it is missing"):
        KafkaLog(place, reading=True)
    make(kafka, place, all_topics(1), retention_ms="-1")
    with capture_logs() as lines, opened(place, reading=True) as log:
        log._topics.look()
    assert lines == []
    assert {each.topic for each in check_topics(place)} == {
        place.prefix + each.topic for each in RETENTION
    }


def test_a_topic_with_fewer_replicas_than_asked_is_said(kafka: Broker) -> None:
    place = kafka.place(partitions=1)
    KafkaLog(place).close()
    with capture_logs() as lines, opened(replace(place, replication=3)):
        pass
    warned = said(lines, "a topic is not as it should be")
    assert {each["reason"] for each in warned} >= {"1 replicas, log.kafka.replication says 3"}
    assert len(warned) == len(RETENTION)


def test_more_replicas_than_brokers_are_refused(kafka: Broker) -> None:
    with pytest.raises(StorageUnfit, match=r"fewer brokers than log\.kafka\.replication"):
        KafkaLog(kafka.place(replication=3, timeout=1.0))


@pytest.mark.parametrize(
    ("topics", "holds", "told"),
    [
        (all_topics(3), True, "set that to what the topic has, or name another"),
        (all_topics(4) | {INCIDENTS: 1}, False, "empty: kafka-topics.sh .* --delete --topic"),
        (all_topics(4) | {INCIDENTS: 1}, True, "kafka-topics.sh .* --alter .* --partitions 4"),
    ],
)
def test_too_few_partitions_are_refused_with_what_fits(
    topics: dict[str, int], holds: bool, told: str, kafka: Broker
) -> None:
    place = kafka.place(partitions=4)
    make(kafka, place, topics)
    if holds:
        for topic in topics:
            write(kafka, place, topic, 0, b"held")
    with pytest.raises(StorageUnfit, match=rf"log\.kafka\.partitions says 4.*{told}"):
        KafkaLog(place)


@pytest.mark.parametrize("is_running", [True, False])
def test_what_others_write_to_partitions_that_were_added_is_read(
    is_running: bool, kafka: Broker
) -> None:
    place = kafka.place(partitions=2)
    with capture_logs() as lines, ExitStack() as held:
        log = held.enter_context(opened(place))
        assert log.parts(FINDINGS) == ("findings-0", "findings-1")
        if not is_running:
            held.close()
        grow(kafka, place, FINDINGS, 4)
        write(kafka, place, FINDINGS, 3, b"foreign")
        if not is_running:
            log = held.enter_context(opened(place))
        log._topics.look()
        assert log.parts(FINDINGS) == tuple(f"findings-{n}" for n in range(4))
        assert [each.value for each in log.read("findings-3", 0)] == [b"foreign"]
        assert (log.oldest("findings-3"), log.next("findings-3")) == (0, 1)
        assert log.part_of(FINDINGS, "dock") in ("findings-0", "findings-1")
        assert log._topics.troubles() == ()
    (line,) = said(lines, "a topic has more partitions than log.kafka.partitions says")
    assert (line["topic"], line["partitions"], line["read"]) == (f"{place.prefix}findings", 4, 4)


@pytest.mark.parametrize("is_running", [True, False])
def test_entries_in_added_partitions_that_pair_off_with_none_are_said_not_read(
    is_running: bool, kafka: Broker
) -> None:
    place = kafka.place(partitions=2)
    with capture_logs() as lines:
        log = KafkaLog(place)
        grow(kafka, place, WINDOWS, 3)
        if not is_running:
            log.close()
            log = KafkaLog(place)
        log._topics.look()
        assert log._topics.troubles() == ()  # nothing is in there
        write(kafka, place, WINDOWS, 2, b"a", b"b")
        log._topics.look()
        log._topics.look()
        assert log.parts(WINDOWS) == ("windows-0", "windows-1")
        (trouble,) = log._topics.troubles()
        log.close()
    assert trouble in [each.reason for each in check_topics(place)]
    assert "has 3 partitions" in trouble
    assert "2 entries in the others are not read" in trouble
    errors = said(lines, "trouble with a topic")
    assert [(each["reason"], each["log_level"]) for each in errors] == [(trouble, "error")]


def test_a_share_has_no_parts_without_partners(kafka: Broker) -> None:
    place = kafka.place(partitions=2)
    with opened(place) as log:
        grow(kafka, place, WINDOWS, 4)
        with closing(log.join("analyzers", WINDOWS)) as share:
            wait_until(share.parts)
            assert share.parts() == {"windows-0", "windows-1"}


def test_what_waits_in_the_old_parts_is_read_before_what_was_added(
    kafka: Broker, store: IncidentStore
) -> None:
    place = kafka.place(partitions=1)
    with opened(place) as log:
        added = AddedParts(log, lambda: store.cursors("alerts"))
        assert added.readable(log.parts(FINDINGS)) == ["findings-0"]
        identity = log.identity("findings-0")
        log.append(FINDINGS, "dock", *(encode_finding(a_finding(n)) for n in range(3)))
        enter(store, "findings-0", 0, 1, identity)
        grow(kafka, place, FINDINGS, 2)
        log._topics.look()
        both = log.parts(FINDINGS)
        assert added.readable([*both, "coverage-0"]) == ["findings-0", "coverage-0"]
        log.append(FINDINGS, "dock", b"what came later is not waited for")
        enter(store, "findings-0", 1, 3, identity)
        assert added.readable(both) == ["findings-0", "findings-1"]
        enter(store, "findings-1", 0, 0, identity)
        assert AddedParts(log, lambda: store.cursors("alerts")).readable(both) == list(both)


def enter(store: IncidentStore, part: str, before: int, after: int, identity: str) -> None:
    with store.transaction() as ledger:
        ledger.enter_log("alerts", part, before, after, identity)
    assert store.cursors("alerts")[part] == Cursor(next=after, log=identity)


def test_a_topic_that_is_deleted_is_made_again_and_what_is_lost_is_said(kafka: Broker) -> None:
    place = kafka.place(partitions=2)
    with capture_logs() as lines, opened(place) as log:
        part = log.part_of(FINDINGS, "dock")
        log.append(FINDINGS, "dock", b"a", b"b", b"c")
        log._topics.look()
        before = log.identity(part)
        delete(kafka, place, FINDINGS)
        log._topics.look()
        assert log.identity(part) != before
        log.append(FINDINGS, "dock", b"d")
        assert [each.value for each in log.read(part, 0)] == [b"d"]
        assert log._topics.troubles() == ()
    (line,) = said(lines, "a topic was deleted and made again")
    assert (line["topic"], line["lost"]) == (f"{place.prefix}findings", f"{part} 0 to 2")
    assert line["log_level"] == "error"
    with capture_logs() as lines, opened(place):
        pass
    assert lines == []  # it is configured as it should be


def delete(broker: Broker, place: KafkaPlace, topic: str) -> None:
    with administering(broker) as admin:
        admin.delete_topics([place.prefix + topic])
        wait_until(lambda: admin.describe_topics([place.prefix + topic])[0]["error_code"])


def test_a_topic_made_again_with_fewer_partitions_is_said_and_the_rest_is_read(
    kafka: Broker,
) -> None:
    place = kafka.place(partitions=4)
    with capture_logs() as lines, opened(place) as log:
        delete(kafka, place, FINDINGS)
        make(kafka, place, {FINDINGS: 2})
        log._topics.look()
        write(kafka, place, FINDINGS, 1, b"there")
        found = [each.value for part in log.parts(FINDINGS) for each in log.read(part, 0)]
        assert found == [b"there"]
        assert len(log.parts(FINDINGS)) == len(log.parts(WINDOWS)) == 4
        (trouble,) = log._topics.troubles()
        assert "has 2 partitions, log.kafka.partitions says 4: kafka-topics.sh" in trouble
        grow(kafka, place, FINDINGS, 4)
        log._topics.look()
        assert log._topics.troubles() == ()
    assert len(said(lines, "trouble with a topic")) == 1


@pytest.fixture
def two_hours_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kafka_log, "now_for", lambda values: now_for(values) + 7_200_000_000)


@pytest.mark.usefixtures("two_hours_ahead")
@pytest.mark.parametrize("topic", [WINDOWS, FINDINGS, REQUESTS])
def test_a_machine_whose_clock_is_ahead_appends_by_the_clock_of_the_broker(
    topic: str, kafka: Broker
) -> None:
    with opened(kafka.place(partitions=1)) as log:
        log.append(topic, "dock", b"one", b"two")
        entries = log.read(log.part_of(topic, "dock"), 0)
    assert [each.value for each in entries] == [b"one", b"two"]
    assert all(abs(each.at - datetime.now(UTC)) < timedelta(minutes=1) for each in entries)


@pytest.mark.usefixtures("two_hours_ahead")
@pytest.mark.parametrize("values", [[b"one"], [b"one", b"two"]])
def test_a_topic_that_keeps_the_clocks_of_machines_names_why_it_refuses(
    values: list[bytes], kafka: Broker
) -> None:
    place = kafka.place(partitions=1)
    make(kafka, place, all_topics(1), retention_ms="-1")
    with opened(place) as log, pytest.raises(StorageDown, match=r"[Tt]imestamp"):
        log.append(WINDOWS, "dock", *values)


def test_the_example_says_that_the_topic_is_missing_and_makes_none(kafka: Broker) -> None:
    place = kafka.place()
    ended = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "deploy.consumer_example"]
        + [kafka.address, place.prefix],
        capture_output=True,
        text=True,
        timeout=30,
        cwd=ROOT,
        check=False,
    )
    assert ended.returncode == 1
    assert f"topic {place.prefix}incidents is missing" in ended.stderr
    consumer = KafkaConsumer(bootstrap_servers=kafka.address)
    assert f"{place.prefix}incidents" not in consumer.topics()
    consumer.close()


@pytest.fixture(scope="module")
def strict() -> Iterator[Broker]:
    """A broker that asks who comes, and lets `longwatch` do nothing."""
    with acl_broker() as broker:
        yield broker


def test_a_right_that_is_missing_is_named_with_the_command(strict: Broker) -> None:
    place = strict.place(partitions=1, sasl=sasl_of("longwatch"))
    with pytest.raises(StorageUnfit, match=r"kafka-acls\.sh") as told:
        KafkaLog(place)
    assert f"topic {place.prefix}" in str(told.value)
    assert "the right DESCRIBE is missing" in str(told.value)
    allow(strict, place, told.value)
    with pytest.raises(StorageUnfit, match=r"kafka-topics\.sh .* --create") as told:
        KafkaLog(place)
    assert f"topic {place.prefix}" in str(told.value)
    assert "the right CREATE is missing" in str(told.value)
    allow(strict, place, told.value)
    with capture_logs() as lines, opened(place):
        pass
    assert lines == []


def allow(broker: Broker, place: KafkaPlace, told: StorageUnfit) -> None:
    """Run the command that an error names, as who may."""
    _, _, words = str(told).partition("kafka-acls.sh ")
    words, _, _ = words.partition(", or ")
    login = broker.folder / "owner.properties"
    login.write_text(
        "security.protocol=SASL_PLAINTEXT\nsasl.mechanism=PLAIN\n"
        "sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule required"
        f' username="owner" password="{PASSWORD}";\n'
    )
    broker.run(
        "org.apache.kafka.tools.AclCommand", *shlex.split(words), "--command-config", str(login)
    )


def test_findings_in_an_added_partition_are_judged(kafka: Broker, store: IncidentStore) -> None:
    place = kafka.place(partitions=1)
    with opened(place) as log:
        worker = AlertsWorker(log, store, [], lambda _: None)
        log.append(FINDINGS, "dock", encode_finding(a_finding(0)))
        worker.run_once()
        grow(kafka, place, FINDINGS, 2)
        grow(kafka, place, COVERAGE, 3)
        write(kafka, place, FINDINGS, 1, encode_finding(a_finding(1)))
        log._topics.look()
        worker._reading._looked_at = float("-inf")  # else in a few seconds
        worker.run_once()
        worker.coverage.sweep(datetime.now(UTC))
    assert store.counts().findings == 2


def size_of(segment: Path) -> int:
    try:
        return segment.stat().st_size
    except FileNotFoundError:  # the broker deletes them
        return 0


@pytest.mark.slow
def test_what_is_kept_is_at_most_a_segment_more_than_asked() -> None:
    looks = {"log.retention.check.interval.ms": "300", "log.segment.delete.delay.ms": "100"}
    few = tuple(replace(each, keep_bytes=4 * MIB) for each in RETENTION)
    with (
        running(settings=looks | {"log.initial.task.delay.ms": "100"}) as broker,
        opened(broker.place(partitions=1, retention=few, largest=MIB)) as log,
    ):
        for _ in range(16):
            log.append(WINDOWS, "dock", b"x" * (MIB - 10_000))

        def kept() -> int:
            return sum(map(size_of, broker.folder.glob("data/*windows-0/*.log")))

        wait_until(lambda: kept() <= 5 * MIB, 20)
        assert kept() >= 4 * MIB - 20_000


@pytest.mark.slow
@pytest.mark.parametrize("partitions", [12, 100])
def test_the_first_start_on_three_cold_brokers_works(partitions: int) -> None:
    with cluster(wait=False) as brokers:
        brokers[0].wait_until_up()
        place = replace(
            brokers[0].place(partitions=partitions, replication=3, timeout=30.0),
            bootstrap=tuple(each.address for each in brokers),
        )
        with opened(place) as log:
            log.append(FINDINGS, "dock", b"first")
            part = log.part_of(FINDINGS, "dock")
            assert [each.value for each in log.read(part, 0)] == [b"first"]
