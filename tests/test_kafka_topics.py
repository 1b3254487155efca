"""Topics of Kafka as they should be: made, checked, added to, deleted, and made again."""

import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer
from kafka.admin import ConfigResource, ConfigResourceType
from structlog.testing import capture_logs

from alerts.intake.new_partitions import NewPartitions
from alerts.worker import AlertsWorker
from kit.kafka.acl_broker import PASSWORD, run_acl_broker, sasl_of
from kit.kafka.broker import Broker, run_broker, run_cluster
from kit.storage.fixtures import a_finding
from kit.waiting import wait_for
from storage.db.alert_store import AlertStore, StoredOffset
from storage.errors import StorageDown, StorageUnfit
from storage.log.kafka import log
from storage.log.kafka.admin.metadata import TopicDescription
from storage.log.kafka.admin.topic_config import (
    build_topic_config,
    harmful_differences,
    harmless_differences,
)
from storage.log.kafka.admin.topic_monitor import TopicMonitor
from storage.log.kafka.admin.topics import check_topics
from storage.log.kafka.client.config import KafkaConfig
from storage.log.kafka.log import KafkaLog
from storage.log.log import append_timestamp
from storage.log.retention import DEFAULT_RETENTION, TopicRetention
from storage.records.topics import COVERAGE, FINDINGS, INCIDENTS, REQUESTS, WINDOWS
from storage.records.wire import encode_finding

MIB = 2**20
PLACE = KafkaConfig(bootstrap=("kafka:9092",))
ROOT = Path(__file__).parents[1]


def kept(**words: Any) -> TopicRetention:
    values: dict[str, Any] = {
        "topic": WINDOWS,
        "keep_bytes": 2**31,
        "keep_for": timedelta(hours=24),
    }
    return TopicRetention(**(values | words))


class BrokenMonitor(TopicMonitor):
    """A monitor whose first refresh is an error of ours."""

    def refresh(self) -> None:
        raise ZeroDivisionError


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_monitor_whose_thread_has_ended_raises() -> None:
    topic = TopicDescription(name=WINDOWS, identity="id", partitions=12, replicas=1)
    monitor = BrokenMonitor(PLACE, {WINDOWS: topic})
    monitor._thread.join(10)
    with pytest.raises(RuntimeError, match="the thread that watches the topics has ended"):
        monitor.has_partition(WINDOWS, 0)


@contextmanager
def opened(kafka_config: KafkaConfig, **words: bool) -> Iterator[KafkaLog]:
    with closing(KafkaLog(kafka_config, **words)) as log:
        yield log


@contextmanager
def administering(broker: Broker) -> Iterator[KafkaAdminClient]:
    admin = KafkaAdminClient(bootstrap_servers=broker.address)
    try:
        yield admin
    finally:
        admin.close()


def make(
    broker: Broker, kafka_config: KafkaConfig, topics: Mapping[str, int], **configs: str
) -> None:
    """Make topics of so many partitions, as somebody else would."""
    with administering(broker) as admin:
        news = {
            kafka_config.prefix + topic: {
                "num_partitions": count,
                "replication_factor": 1,
                "configs": {"max.message.bytes": str(kafka_config.largest)}
                | {name.replace("_", "."): value for name, value in configs.items()},
            }
            for topic, count in topics.items()
        }
        admin.create_topics(news, wait_for_metadata=True)


def all_topics(partitions: int) -> dict[str, int]:
    return {each.topic: partitions for each in DEFAULT_RETENTION}


def grow(broker: Broker, kafka_config: KafkaConfig, topic: str, partitions: int) -> None:
    with administering(broker) as admin:
        admin.create_partitions({kafka_config.prefix + topic: partitions})
        wait_for(lambda: partitions_of(admin, kafka_config, topic) == partitions)


def partitions_of(admin: KafkaAdminClient, kafka_config: KafkaConfig, topic: str) -> int:
    return len(admin.describe_topics([kafka_config.prefix + topic])[0]["partitions"])


def write(
    broker: Broker, kafka_config: KafkaConfig, topic: str, partition: int, *values: bytes
) -> None:
    """Write as a foreign producer does."""
    producer = KafkaProducer(bootstrap_servers=broker.address)
    for value in values:
        producer.send(kafka_config.prefix + topic, value, key=b"dock", partition=partition).get(10)
    producer.close()


def events_named(lines: list[Any], event: str) -> list[Any]:
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
    asked: TopicRetention, largest: int, bytes_: int, milliseconds: int
) -> None:
    found = build_topic_config(replace(PLACE, largest=largest), asked, replicas=1)
    assert (found["segment.bytes"], found["segment.ms"]) == (str(bytes_), str(milliseconds))


@pytest.mark.parametrize(("replicas", "insync"), [(1, "1"), (2, "1"), (3, "2"), (5, "2")])
def test_two_replicas_have_what_is_acknowledged_where_there_are_three(
    replicas: int, insync: str
) -> None:
    assert build_topic_config(PLACE, kept(), replicas)["min.insync.replicas"] == insync


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
    wanted = build_topic_config(PLACE, kept(), replicas=3)
    found = {**wanted, key: value}
    assert [each.key for each in harmful_differences(wanted, found)] == [key] * is_lost
    assert [each.key for each in harmless_differences(wanted, found)] == [key] * is_said


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
    kafka_config = kafka.place(partitions=3)
    with capture_logs() as lines, opened(kafka_config):
        pass
    assert lines == []
    with capture_logs() as lines, opened(kafka_config):
        pass
    assert lines == []
    names = [kafka_config.prefix + each.topic for each in kafka_config.retention]
    with administering(kafka) as admin:
        found = {each["name"]: len(each["partitions"]) for each in admin.describe_topics(names)}
        asked = [ConfigResource(ConfigResourceType.TOPIC, name) for name in names]
        configs = admin.describe_configs(asked, config_filter="all")["topic"]
    assert found == dict.fromkeys(names, 3)
    for each in kafka_config.retention:
        wanted = build_topic_config(kafka_config, each, replicas=1)
        has = configs[kafka_config.prefix + each.topic]
        assert {key: has[key]["value"] for key in wanted} == wanted


def test_a_record_of_each_topic_has_the_codec_that_fits(kafka: Broker) -> None:
    kafka_config = kafka.place(partitions=1)
    with opened(kafka_config) as log:
        for topic in (WINDOWS, FINDINGS):
            log.append(topic, "dock", b"x" * 10_000)
    sizes = {}
    for topic in (WINDOWS, FINDINGS):
        (file,) = kafka.folder.glob(f"data/{kafka_config.prefix}{topic}-0/*.log")
        sizes[topic] = file.stat().st_size
    assert sizes[WINDOWS] > 10_000
    assert sizes[FINDINGS] < 1000


def test_a_topic_of_others_is_used_and_one_command_sets_it_right(kafka: Broker) -> None:
    kafka_config = kafka.place(partitions=1, replication=None)
    make(kafka, kafka_config, all_topics(1), retention_ms="-1", segment_bytes=str(2**30))
    with capture_logs() as lines, opened(kafka_config) as log:
        log.append(FINDINGS, "dock", b"it works")
    warned = events_named(lines, "a topic is not as it should be")
    assert {each["topic"] for each in warned} == {
        kafka_config.prefix + each.topic for each in DEFAULT_RETENTION
    }
    (windows,) = (each for each in warned if each["topic"] == f"{kafka_config.prefix}windows")
    assert "message.timestamp.type is CreateTime, LogAppendTime is needed" in windows["reason"]
    assert "retention.ms is -1, 86400000 is needed" in windows["reason"]
    tool, *words = shlex.split(windows["change"])
    assert tool == "kafka-configs.sh"
    kafka.run("kafka.admin.ConfigCommand", *words)
    with capture_logs() as lines, opened(kafka_config):
        pass
    warned = events_named(lines, "a topic is not as it should be")
    assert len(warned) == len(DEFAULT_RETENTION) - 1


def test_who_only_reads_says_nothing_and_makes_nothing(kafka: Broker) -> None:
    kafka_config = kafka.place(partitions=1)
    with pytest.raises(StorageUnfit, match="coverage: it is missing"):
        KafkaLog(kafka_config, read_only=True)
    make(kafka, kafka_config, all_topics(1), retention_ms="-1")
    with capture_logs() as lines, opened(kafka_config, read_only=True) as log:
        log._topic_monitor.refresh()
    assert lines == []
    assert {each.topic for each in check_topics(kafka_config)} == {
        kafka_config.prefix + each.topic for each in DEFAULT_RETENTION
    }


def test_a_topic_with_fewer_replicas_than_asked_is_said(kafka: Broker) -> None:
    kafka_config = kafka.place(partitions=1)
    KafkaLog(kafka_config).close()
    with capture_logs() as lines, opened(replace(kafka_config, replication=3)):
        pass
    warned = events_named(lines, "a topic is not as it should be")
    assert {each["reason"] for each in warned} >= {"1 replicas, log.kafka.replication says 3"}
    assert len(warned) == len(DEFAULT_RETENTION)


def test_more_replicas_than_brokers_are_refused(kafka: Broker) -> None:
    with pytest.raises(StorageUnfit, match=r"fewer brokers than log\.kafka\.replication"):
        KafkaLog(kafka.place(replication=3, timeout=1.0))


@pytest.mark.parametrize(
    ("topics", "holds", "told"),
    [
        (all_topics(3), True, "set it to what the topic has, or name another"),
        (
            all_topics(4) | {INCIDENTS: 1},
            False,
            "empty: recreate it: .* --delete --topic",
        ),
        (all_topics(4) | {INCIDENTS: 1}, True, "kafka-topics.sh .* --alter .* --partitions 4"),
    ],
)
def test_too_few_partitions_are_refused_with_what_fits(
    topics: dict[str, int], holds: bool, told: str, kafka: Broker
) -> None:
    kafka_config = kafka.place(partitions=4)
    make(kafka, kafka_config, topics)
    if holds:
        for topic in topics:
            write(kafka, kafka_config, topic, 0, b"held")
    with pytest.raises(StorageUnfit, match=rf"log\.kafka\.partitions says 4.*{told}"):
        KafkaLog(kafka_config)


@pytest.mark.parametrize("is_running", [True, False])
def test_what_others_write_to_partitions_that_were_added_is_read(
    is_running: bool, kafka: Broker
) -> None:
    kafka_config = kafka.place(partitions=2)
    with capture_logs() as lines, ExitStack() as held:
        log = held.enter_context(opened(kafka_config))
        assert log.partitions(FINDINGS) == ("findings-0", "findings-1")
        if not is_running:
            held.close()
        grow(kafka, kafka_config, FINDINGS, 4)
        write(kafka, kafka_config, FINDINGS, 3, b"foreign")
        if not is_running:
            log = held.enter_context(opened(kafka_config))
        log._topic_monitor.refresh()
        assert log.partitions(FINDINGS) == tuple(f"findings-{n}" for n in range(4))
        assert [each.value for each in log.read("findings-3", 0)] == [b"foreign"]
        assert (log.start_offset("findings-3"), log.end_offset("findings-3")) == (0, 1)
        assert log.partition_for(FINDINGS, "dock") in ("findings-0", "findings-1")
        assert log._topic_monitor.problems() == ()
    (line,) = events_named(lines, "a topic has more partitions than log.kafka.partitions says")
    assert (line["topic"], line["partitions"], line["read"]) == (
        f"{kafka_config.prefix}findings",
        4,
        4,
    )


@pytest.mark.parametrize("is_running", [True, False])
def test_entries_in_added_partitions_that_pair_off_with_none_are_said_not_read(
    is_running: bool, kafka: Broker
) -> None:
    kafka_config = kafka.place(partitions=2)
    with capture_logs() as lines:
        log = KafkaLog(kafka_config)
        grow(kafka, kafka_config, WINDOWS, 3)
        if not is_running:
            log.close()
            log = KafkaLog(kafka_config)
        log._topic_monitor.refresh()
        assert log._topic_monitor.problems() == ()  # nothing is in there
        write(kafka, kafka_config, WINDOWS, 2, b"a", b"b")
        log._topic_monitor.refresh()
        log._topic_monitor.refresh()
        assert log.partitions(WINDOWS) == ("windows-0", "windows-1")
        (trouble,) = log._topic_monitor.problems()
        log.close()
    assert trouble in [each.reason for each in check_topics(kafka_config)]
    assert "has 3 partitions" in trouble
    assert "2 entries in the others are not read" in trouble
    errors = events_named(lines, "trouble with a topic")
    assert [(each["reason"], each["log_level"]) for each in errors] == [(trouble, "error")]


def test_a_share_has_no_parts_without_partners(kafka: Broker) -> None:
    kafka_config = kafka.place(partitions=2)
    with opened(kafka_config) as log:
        grow(kafka, kafka_config, WINDOWS, 4)
        with closing(log.join_group("analyzers", WINDOWS)) as membership:
            wait_for(membership.partitions)
            assert membership.partitions() == {"windows-0", "windows-1"}


def test_what_waits_in_the_old_parts_is_read_before_what_was_added(
    kafka: Broker, store: AlertStore
) -> None:
    kafka_config = kafka.place(partitions=1)
    with opened(kafka_config) as log:
        added = NewPartitions(log, lambda: store.stored_offsets("alerts"))
        assert added.readable(log.partitions(FINDINGS)) == ["findings-0"]
        identity = log.identity("findings-0")
        log.append(FINDINGS, "dock", *(encode_finding(a_finding(n)) for n in range(3)))
        enter(store, "findings-0", 0, 1, identity)
        grow(kafka, kafka_config, FINDINGS, 2)
        log._topic_monitor.refresh()
        both = log.partitions(FINDINGS)
        assert added.readable([*both, "coverage-0"]) == ["findings-0", "coverage-0"]
        log.append(FINDINGS, "dock", b"what came later is not waited for")
        enter(store, "findings-0", 1, 3, identity)
        assert added.readable(both) == ["findings-0", "findings-1"]
        enter(store, "findings-1", 0, 0, identity)
        assert NewPartitions(log, lambda: store.stored_offsets("alerts")).readable(both) == list(
            both
        )


def enter(store: AlertStore, partition: str, before: int, after: int, identity: str) -> None:
    with store.transaction() as transaction:
        transaction.switch_log("alerts", partition, before, after, identity)
    assert store.stored_offsets("alerts")[partition] == StoredOffset(
        offset=after, log_identity=identity
    )


def test_a_topic_that_is_deleted_is_made_again_and_what_is_lost_is_said(kafka: Broker) -> None:
    kafka_config = kafka.place(partitions=2)
    with capture_logs() as lines, opened(kafka_config) as log:
        partition = log.partition_for(FINDINGS, "dock")
        log.append(FINDINGS, "dock", b"a", b"b", b"c")
        log._topic_monitor.refresh()
        before = log.identity(partition)
        delete(kafka, kafka_config, FINDINGS)
        log._topic_monitor.refresh()
        assert log.identity(partition) != before
        log.append(FINDINGS, "dock", b"d")
        assert [each.value for each in log.read(partition, 0)] == [b"d"]
        assert log._topic_monitor.problems() == ()
    (line,) = events_named(lines, "a topic was deleted and made again")
    assert (line["topic"], line["lost"]) == (
        f"{kafka_config.prefix}findings",
        f"{partition} 0 to 2",
    )
    assert line["log_level"] == "error"
    with capture_logs() as lines, opened(kafka_config):
        pass
    assert lines == []  # it is configured as it should be


def delete(broker: Broker, kafka_config: KafkaConfig, topic: str) -> None:
    with administering(broker) as admin:
        admin.delete_topics([kafka_config.prefix + topic])
        wait_for(lambda: admin.describe_topics([kafka_config.prefix + topic])[0]["error_code"])


def test_a_topic_made_again_with_fewer_partitions_is_said_and_the_rest_is_read(
    kafka: Broker,
) -> None:
    kafka_config = kafka.place(partitions=4)
    with capture_logs() as lines, opened(kafka_config) as log:
        delete(kafka, kafka_config, FINDINGS)
        make(kafka, kafka_config, {FINDINGS: 2})
        log._topic_monitor.refresh()
        write(kafka, kafka_config, FINDINGS, 1, b"there")
        found = [
            each.value for partition in log.partitions(FINDINGS) for each in log.read(partition, 0)
        ]
        assert found == [b"there"]
        assert len(log.partitions(FINDINGS)) == len(log.partitions(WINDOWS)) == 4
        (trouble,) = log._topic_monitor.problems()
        assert "has 2 partitions, log.kafka.partitions says 4: kafka-topics.sh" in trouble
        grow(kafka, kafka_config, FINDINGS, 4)
        log._topic_monitor.refresh()
        assert log._topic_monitor.problems() == ()
    assert len(events_named(lines, "trouble with a topic")) == 1


@pytest.fixture
def two_hours_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        log, "append_timestamp", lambda values: append_timestamp(values) + 7_200_000_000
    )


@pytest.mark.usefixtures("two_hours_ahead")
@pytest.mark.parametrize("topic", [WINDOWS, FINDINGS, REQUESTS])
def test_a_machine_whose_clock_is_ahead_appends_by_the_clock_of_the_broker(
    topic: str, kafka: Broker
) -> None:
    with opened(kafka.place(partitions=1)) as log:
        log.append(topic, "dock", b"one", b"two")
        entries = log.read(log.partition_for(topic, "dock"), 0)
    assert [each.value for each in entries] == [b"one", b"two"]
    assert all(abs(each.at - datetime.now(UTC)) < timedelta(minutes=1) for each in entries)


@pytest.mark.usefixtures("two_hours_ahead")
@pytest.mark.parametrize("values", [[b"one"], [b"one", b"two"]])
def test_a_topic_that_keeps_the_clocks_of_machines_names_why_it_refuses(
    values: list[bytes], kafka: Broker
) -> None:
    kafka_config = kafka.place(partitions=1)
    make(kafka, kafka_config, all_topics(1), retention_ms="-1")
    with opened(kafka_config) as log, pytest.raises(StorageDown, match=r"[Tt]imestamp"):
        log.append(WINDOWS, "dock", *values)


def test_the_example_says_that_the_topic_is_missing_and_makes_none(kafka: Broker) -> None:
    kafka_config = kafka.place()
    ended = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "deploy.consumer_example"]
        + [kafka.address, kafka_config.prefix],
        capture_output=True,
        text=True,
        timeout=30,
        cwd=ROOT,
        check=False,
    )
    assert ended.returncode == 1
    assert f"topic {kafka_config.prefix}incidents is missing" in ended.stderr
    consumer = KafkaConsumer(bootstrap_servers=kafka.address)
    assert f"{kafka_config.prefix}incidents" not in consumer.topics()
    consumer.close()


@pytest.fixture(scope="module")
def strict() -> Iterator[Broker]:
    """A broker that asks who comes, and lets `longwatch` do nothing."""
    with run_acl_broker() as broker:
        yield broker


def test_a_right_that_is_missing_is_named_with_the_command(strict: Broker) -> None:
    kafka_config = strict.place(partitions=1, sasl=sasl_of("longwatch"))
    with pytest.raises(StorageUnfit, match=r"kafka-acls\.sh") as raised:
        KafkaLog(kafka_config)
    assert f"topic {kafka_config.prefix}" in str(raised.value)
    assert "the right DESCRIBE is missing" in str(raised.value)
    allow(strict, kafka_config, raised.value)
    with pytest.raises(StorageUnfit, match=r"kafka-topics\.sh .* --create") as raised:
        KafkaLog(kafka_config)
    assert f"topic {kafka_config.prefix}" in str(raised.value)
    assert "the right CREATE is missing" in str(raised.value)
    allow(strict, kafka_config, raised.value)
    with capture_logs() as lines, opened(kafka_config):
        pass
    assert lines == []


def allow(broker: Broker, kafka_config: KafkaConfig, told: StorageUnfit) -> None:
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


def test_findings_in_an_added_partition_are_judged(kafka: Broker, store: AlertStore) -> None:
    kafka_config = kafka.place(partitions=1)
    with opened(kafka_config) as log:
        worker = AlertsWorker(log, store, [], lambda _: None)
        log.append(FINDINGS, "dock", encode_finding(a_finding(0)))
        worker.run_once()
        grow(kafka, kafka_config, FINDINGS, 2)
        grow(kafka, kafka_config, COVERAGE, 3)
        write(kafka, kafka_config, FINDINGS, 1, encode_finding(a_finding(1)))
        log._topic_monitor.refresh()
        worker._cursor._checked_at = float("-inf")  # else in a few seconds
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
    few = tuple(replace(each, keep_bytes=4 * MIB) for each in DEFAULT_RETENTION)
    with (
        run_broker(settings=looks | {"log.initial.task.delay.ms": "100"}) as broker,
        opened(broker.place(partitions=1, retention=few, largest=MIB)) as log,
    ):
        for _ in range(16):
            log.append(WINDOWS, "dock", b"x" * (MIB - 10_000))

        def kept() -> int:
            return sum(map(size_of, broker.folder.glob("data/*windows-0/*.log")))

        wait_for(lambda: kept() <= 5 * MIB, 20)
        assert kept() >= 4 * MIB - 20_000


@pytest.mark.slow
@pytest.mark.parametrize("partitions", [12, 100])
def test_the_first_start_on_three_cold_brokers_works(partitions: int) -> None:
    with run_cluster(wait=False) as brokers:
        brokers[0].wait_until_up()
        place = replace(
            brokers[0].place(partitions=partitions, replication=3, timeout=30.0),
            bootstrap=tuple(each.address for each in brokers),
        )
        with opened(place) as log:
            log.append(FINDINGS, "dock", b"first")
            partition = log.partition_for(FINDINGS, "dock")
            assert [each.value for each in log.read(partition, 0)] == [b"first"]
