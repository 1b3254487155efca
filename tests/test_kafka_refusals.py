"""What a broker refuses: by name, at the start an end with 2, later waited for."""

import json
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import kafka.errors
import pytest
from kafka import TopicPartition

from deploy.checks.connections import check_connections
from deploy.config.data_dir import StorageLocations
from deploy.config.log_access import ALERT, ALL, ANALYZE, INGEST
from deploy.config.settings_file import read_settings
from deploy.runtime import refusals
from kit.deploy.command import Command, longwatch, run_longwatch
from kit.kafka.acl_broker import PASSWORD, AclBroker, run_acl_broker, sasl_of
from kit.kafka.broker import free_ports
from kit.waiting import wait_for
from storage.errors import StorageDown, StorageRefused, StorageUnfit
from storage.log.access import LogAccess
from storage.log.kafka.admin.acls import check_acls, missing_acls
from storage.log.kafka.client.config import KafkaConfig, Sasl
from storage.log.kafka.client.errors import (
    describe_error,
    refused_as_unfit,
    to_storage_error,
    translate_errors,
)
from storage.log.kafka.client.network import quota_error
from storage.log.kafka.client.refusals import RETRY_SECONDS, Refusals, ResourceOperation
from storage.log.kafka.fetch.consumer import create_partition_consumer
from storage.log.kafka.log import KafkaLog
from storage.log.open_log import open_log
from storage.records.topics import FINDINGS, INCIDENTS, WINDOWS
from storage.role_problems import RoleProblem, read_role_problems, write_role_problem


@pytest.fixture(scope="module")
def guarded() -> Iterator[AclBroker]:
    with run_acl_broker() as broker:
        yield broker


@pytest.fixture
def place(guarded: AclBroker) -> KafkaConfig:
    """Return topics that are there, as a user sees them who may nothing."""
    owner = guarded.place_of(partitions=1, timeout=5.0)
    KafkaLog(owner).close()
    return replace(owner, sasl=sasl_of("longwatch"), refusals=Refusals())


@pytest.mark.parametrize(
    ("sasl", "told"),
    [
        (sasl_of("longwatch", "wr0ng-c4n4ry"), "it refuses longwatch: Authentication failed: "),
        (sasl_of("nobody"), "it refuses nobody: Authentication failed: Invalid username or"),
        (sasl_of("longwatch", mechanism="SCRAM-SHA-512"), "not take SCRAM-SHA-512, but PLAIN"),
        (None, r"it asks who we are: set log\.kafka\.sasl"),
    ],
)
def test_a_broker_that_lets_us_not_in_is_quoted_at_the_start(
    guarded: AclBroker, sasl: Sasl | None, told: str
) -> None:
    kafka_config = guarded.place_of(sasl=sasl, timeout=2.0)
    with pytest.raises(StorageUnfit, match=told) as raised:
        KafkaLog(kafka_config)
    assert kafka_config.bootstrap[0] in str(raised.value)
    assert "c4n4ry" not in str(raised.value)


def test_a_password_for_a_broker_that_asks_for_none_is_refused(guarded: AclBroker) -> None:
    kafka_config = guarded.place_of(bootstrap=(guarded.inter_broker_address,), timeout=2.0)
    with pytest.raises(StorageUnfit, match=r"does not ask who we are: remove log\.kafka\.sasl"):
        KafkaLog(kafka_config)


def test_every_bootstrap_is_named_with_what_it_says(guarded: AclBroker) -> None:
    dead = f"127.0.0.1:{free_ports(1)[0]}"
    both = (dead, guarded.address)
    wrong = guarded.place_of(sasl=sasl_of("nobody"), bootstrap=both, timeout=2.0)
    with pytest.raises(StorageUnfit) as raised:
        KafkaLog(wrong)
    assert f"{dead}: connection refused; {guarded.address}: it refuses nobody" in str(raised.value)


def test_a_frozen_broker_does_not_answer(guarded: AclBroker) -> None:
    kafka_config = guarded.place_of(timeout=1.0)
    guarded.signal(signal.SIGSTOP)
    try:
        with pytest.raises(StorageDown, match=r"does not answer \(no answer within 3 s\)"):
            KafkaLog(kafka_config)
    finally:
        guarded.signal(signal.SIGCONT)


def test_what_is_no_broker_is_told() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=_be_a_web_server, args=(server,), daemon=True)
        thread.start()
        address = f"127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(StorageUnfit, match="what it says is not Kafka's protocol"):
            KafkaLog(KafkaConfig(bootstrap=(address,), timeout=1.0))


def _be_a_web_server(server: socket.socket) -> None:
    while True:
        try:
            client, _ = server.accept()
            with client:
                client.recv(4096)
                client.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        except OSError:
            return


def test_rights_that_are_missing_are_all_named_at_the_start(
    guarded: AclBroker, place: KafkaConfig
) -> None:
    missing = missing_acls(place, INGEST)
    assert len(missing) == 2
    name = place.prefix + WINDOWS
    assert (
        f"topic {name}: the right WRITE is missing: kafka-acls.sh"
        f" --bootstrap-server {place.bootstrap[0]} --add --allow-principal"
        f" User:longwatch --operation WRITE --topic {name}"
    ) in missing
    guarded.grant("WRITE", "TOPIC", name)
    wait_for_rights(lambda: len(missing_acls(place, INGEST)) == 1)
    with pytest.raises(StorageUnfit, match=f"topic {place.prefix}coverage: the right WRITE is"):
        check_acls(place, INGEST)


def test_a_group_that_may_not_be_joined_is_named_at_the_start(
    guarded: AclBroker, place: KafkaConfig
) -> None:
    group = f"{place.prefix}analyzer"
    expected = f"group {group}: the right READ is missing: .* --operation READ --group {group}"
    needs = LogAccess(groups=ANALYZE.groups)
    guarded.grant("DESCRIBE", "TOPIC", place.prefix, prefix=True)
    wait_for_rights(lambda: _is_opened(place))
    with pytest.raises(StorageUnfit, match=expected):
        open_log(place, access=needs)
    guarded.grant("READ", "GROUP", group)
    wait_for_rights(lambda: not missing_acls(place, needs))
    open_log(place, access=needs).close()


def _is_opened(kafka_config: KafkaConfig) -> bool:
    try:
        KafkaLog(kafka_config).close()
    except StorageUnfit:
        return False
    return True


def wait_for_rights(holds: Callable[[], object]) -> None:
    """Wait until a right that was given is known to the broker."""
    deadline = time.monotonic() + 10
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_owner_lacks_nothing(guarded: AclBroker) -> None:
    kafka_config = guarded.place_of(partitions=1)
    KafkaLog(kafka_config).close()
    assert missing_acls(kafka_config, ALL) == []


def test_a_right_taken_away_later_is_waited_for_and_given_back_reads_on(
    guarded: AclBroker, place: KafkaConfig
) -> None:
    clock = [100.0]
    place = replace(place, refusals=Refusals(lambda: clock[0]))
    name = place.prefix + FINDINGS
    guarded.grant("DESCRIBE", "TOPIC", place.prefix, prefix=True)
    guarded.grant("READ", "TOPIC", name)
    guarded.grant("WRITE", "TOPIC", name)
    wait_for_rights(lambda: _is_opened(place))
    with closing(KafkaLog(place)) as log:
        wait_for_rights(lambda: _appends(log, clock))
        partition = log.partition_for(FINDINGS, "dock")
        at = log.read(partition, 0).next_offset
        guarded.revoke("READ", "TOPIC", name)
        wait_for_rights(
            lambda: place.refusals.current_reasons() or _reads(log, partition, at) is None
        )
        with pytest.raises(StorageRefused, match=f"topic {name}: the right READ is missing"):
            log.read(partition, at)
        assert len(place.refusals.current_reasons()) == 1
        guarded.grant("READ", "TOPIC", name)
        with pytest.raises(StorageRefused):  # it is not asked for again so soon
            log.read(partition, at)
        clock[0] += RETRY_SECONDS
        wait_for_rights(lambda: _reads(log, partition, at, clock) is not None)
        assert place.refusals.current_reasons() == []


def _appends(log: KafkaLog, clock: list[float]) -> bool:
    clock[0] += RETRY_SECONDS
    try:
        log.append(FINDINGS, "dock", b"x")
    except StorageRefused:
        return False
    return True


def _reads(log: KafkaLog, partition: str, at: int, clock: list[float] | None = None) -> int | None:
    if clock:
        clock[0] += RETRY_SECONDS
    try:
        return len(log.read(partition, at))
    except StorageRefused:
        return None


def test_a_producer_that_may_not_write_names_the_topic(
    guarded: AclBroker, place: KafkaConfig
) -> None:
    guarded.grant("DESCRIBE", "TOPIC", place.prefix, prefix=True)
    wait_for_rights(lambda: _is_opened(place))
    expected = f"topic {place.prefix}incidents: the right WRITE is missing"
    with closing(KafkaLog(place)) as log, pytest.raises(StorageRefused, match=expected):
        log.append(INCIDENTS, "dock", b"x")


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (
            kafka.errors.TopicAuthorizationFailedError({"b.x", "b.a"}),
            "topic b.a, b.x: the right READ or WRITE is missing: .* --operation READ --operation"
            " WRITE --topic b.a",
        ),
        (
            kafka.errors.GroupAuthorizationFailedError(
                "FindCoordinatorResponse error for GROUP/longwatch.analyzer: "
            ),
            "group longwatch.analyzer: the right READ is missing",
        ),
        (
            kafka.errors.KafkaError(
                "Unexpected error in InitProducerIdResponse: [Error 31]"
                " ClusterAuthorizationFailedError"
            ),
            "cluster: the right IDEMPOTENT_WRITE is missing: .* IDEMPOTENT_WRITE --cluster",
        ),
        (
            kafka.errors.TransactionalIdAuthorizationFailedError("t"),
            "transactional-id t: the right WRITE is missing",
        ),
        (
            kafka.errors.TopicAuthorizationFailedError(
                "Request 'CreateTopicsRequest(...)' failed with response '...topics="
                "[CreatableTopicResult(version=7, name='xx', topic_id=None, error_code=29, ...)])'."
            ),
            "topic xx: the right CREATE is missing",
        ),
    ],
)
def test_each_right_is_named(error: Exception, told: str) -> None:
    kafka_config = KafkaConfig(bootstrap=("127.0.0.1:1",))
    with pytest.raises(StorageRefused, match=told), translate_errors(kafka_config):
        raise error
    with (
        pytest.raises(StorageUnfit, match=told),
        refused_as_unfit(),
        translate_errors(kafka_config),
    ):
        raise error


def test_a_topic_that_was_deleted_is_named(guarded: AclBroker) -> None:
    kafka_config = guarded.place_of(partitions=1, timeout=2.0)
    KafkaLog(kafka_config).close()
    name = kafka_config.prefix + WINDOWS
    with guarded.admin() as admin:
        admin.delete_topics([name])
    late = kafka.errors.KafkaTimeoutError("Failed to get offsets")
    expected = f"topic {name}: the topic is missing: was it deleted"
    wait_for_rights(
        lambda: expected in str(to_storage_error(kafka_config, late, ResourceOperation(topic=name)))
    )


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (kafka.errors.NotEnoughReplicasError(), "min.insync.replicas"),
        (kafka.errors.CoordinatorNotAvailableError(), "offsets.topic.replication.factor"),
        (kafka.errors.UnknownTopicOrPartitionError(), "was it deleted?"),
        (kafka.errors.ThrottlingQuotaExceededError(), "a quota of the broker slows us down"),
        (kafka.errors.InvalidTimestampError(), "our clock differs too much"),
        (
            kafka.errors.InvalidRecordError("Timestamp 1 of message with offset 0 is out of range"),
            "our clock differs too much",
        ),
        (kafka.errors.KafkaError("x Request 'y'"), "KafkaError: x"),
    ],
)
def test_an_error_has_words(error: kafka.errors.KafkaError, told: str) -> None:
    assert told in describe_error(error)
    late = kafka.errors.KafkaTimeoutError("Timeout waiting for future")
    late.__cause__ = error
    kafka_config = KafkaConfig(bootstrap=("127.0.0.1:1",))
    assert told in str(to_storage_error(kafka_config, late, ResourceOperation(topic="b.findings")))
    assert "topic b.findings: " in str(
        to_storage_error(kafka_config, late, ResourceOperation(topic="b.findings"))
    )


def a_site(folder: Path, kafka_config: KafkaConfig, *, more: str = "") -> Path:
    file = folder / "site.yaml"
    log_in = kafka_config.sasl
    assert log_in is not None
    file.write_text(
        f"data: {folder}/data\n"
        "cameras: {dock: {url: 'rtsp://127.0.0.1/x'}}\n"
        "questions: {any: {ask: 'Is it?', every: 16s}}\n"
        f"log: {{kafka: {{bootstrap: {[*kafka_config.bootstrap]}, partitions: 1,\n"
        f"  prefix: {kafka_config.prefix}, timeout: 5s,\n"
        f"  sasl: {{mechanism: PLAIN, user: {log_in.user}, password: {log_in.password}}}}}}}\n"
        f"{more}"
    )
    return file


def looked_at(kafka_config: KafkaConfig, folder: Path) -> dict[str, list[tuple[bool, str]]]:
    found: dict[str, list[tuple[bool, str]]] = {}
    for each in check_connections(read_settings(a_site(folder, kafka_config))):
        found.setdefault(each.name, []).append((each.is_good, each.found))
    return found


def test_a_checkup_before_the_first_start_makes_nothing(guarded: AclBroker, tmp_path: Path) -> None:
    kafka_config = guarded.place_of(partitions=1)
    for _ in range(2):
        found = looked_at(kafka_config, tmp_path)
        assert found[f"broker {kafka_config.bootstrap[0]}"] == [(True, "answers")]
        ((is_good, told),) = found["topics"]
        assert is_good
        assert told.endswith("not there yet, made at the next start")
    guest = looked_at(replace(kafka_config, sasl=sasl_of("guest")), tmp_path)
    assert not any(is_good for is_good, _ in guest["rights"])


def test_a_checkup_of_a_cluster_that_is_right(guarded: AclBroker, tmp_path: Path) -> None:
    kafka_config = guarded.place_of(partitions=1)
    with closing(KafkaLog(kafka_config)) as log:
        found = looked_at(kafka_config, tmp_path)
        assert found["clock"] == [(True, "not known: no broker tells its time before a record")]
        log.append(FINDINGS, "dock", b"x")
        found = looked_at(kafka_config, tmp_path)
    assert all(is_good for each in found.values() for is_good, _ in each)
    assert found["rights"] == [(True, "what every role needs is allowed")]
    assert found["topics"] == [(True, "7 topics of 1 partitions")]
    assert found["replicas"] == [(True, "1 of each partition, all in sync")]
    assert found["clock"][0][1].startswith("not ahead of ours: the newest record is ")


def test_a_checkup_names_rights_that_are_missing_and_a_topic_that_does_not_fit(
    guarded: AclBroker, place: KafkaConfig, tmp_path: Path
) -> None:
    guarded.grant("DESCRIBE", "TOPIC", place.prefix, prefix=True)
    guarded.grant("READ", "TOPIC", place.prefix, prefix=True)
    wait_for_rights(lambda: _is_opened(place))
    rights = [told for is_good, told in looked_at(place, tmp_path)["rights"] if not is_good]
    assert len([told for told in rights if "the right WRITE is missing" in told]) == 6
    assert any(told.startswith(f"group {place.prefix}analyzer: the right READ") for told in rights)
    owner = replace(place, prefix=f"{place.prefix}b.", sasl=sasl_of("owner"), partitions=2)
    KafkaLog(owner).close()
    ((is_good, told),) = looked_at(owner, tmp_path)["topics"]
    assert is_good or "it has 2 partitions, log.kafka.partitions says 1" in told


def test_validate_touches_the_network_with_connect_alone(tmp_path: Path, command: Command) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.2)
        address = f"127.0.0.1:{server.getsockname()[1]}"
        kafka_config = KafkaConfig(bootstrap=(address,), sasl=sasl_of("longwatch"))
        site = a_site(tmp_path, kafka_config)
        assert command("validate", "-c", site).returncode == 0
        with pytest.raises(TimeoutError):
            server.accept()
    said = command("validate", "-c", site, "--connect")
    assert said.returncode == 1
    assert f"problem  broker {address}: connection refused" in said.stdout
    result = command("validate", "-c", site, "--connect", "--json")
    assert result.returncode == 1
    (found,) = json.loads(result.stdout)["connections"]
    assert found == {"name": f"broker {address}", "found": "connection refused", "is_good": False}
    assert PASSWORD not in said.stdout + said.stderr + result.stdout


def test_doctor_says_what_servers_say(tmp_path: Path, command: Command, checkpoint: Path) -> None:
    away = f"127.0.0.1:{free_ports(1)[0]}"
    kafka_config = KafkaConfig(bootstrap=(away,), sasl=sasl_of("longwatch"))
    database = f"database: postgresql://longwatch:{PASSWORD}@127.0.0.1:{free_ports(1)[0]}/x\n"
    site = a_site(tmp_path, kafka_config, more=f"{database}model: {{name: {checkpoint}}}\n")
    result = command("doctor", "-c", site)
    assert result.returncode == 1
    assert f"problem  broker {away}: connection refused" in result.stdout
    assert "problem  database: " in result.stdout
    assert PASSWORD not in result.stdout + result.stderr


def test_a_role_that_is_refused_something_is_shown_as_held_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(refusals, "_POLL_SECONDS", 0.05)
    kafka_config = KafkaConfig(bootstrap=("127.0.0.1:1",))
    places = StorageLocations(data=tmp_path, log=kafka_config, database="sqlite://")
    use = ResourceOperation(topic="b.findings", operation="READ")
    supervisors = RoleProblem(role="alerts", reason="its own", since=datetime.now(UTC))
    write_role_problem(tmp_path, supervisors)
    with refusals.report_refusals("alerts", places):
        kafka_config.refusals.record(use, "topic b.findings: no READ")
        wait_for_rights(lambda: len(read_role_problems(tmp_path)) == 2)
        assert "topic b.findings: no READ" in {each.reason for each in read_role_problems(tmp_path)}
        kafka_config.refusals.clear(use)
        wait_for_rights(lambda: read_role_problems(tmp_path) == [supervisors])
        kafka_config.refusals.record(use, "again")
        wait_for_rights(lambda: len(read_role_problems(tmp_path)) == 2)
    assert read_role_problems(tmp_path) == [supervisors]


def test_what_nobody_tries_any_more_is_no_longer_refused() -> None:
    clock = [0.0]
    refusals = Refusals(lambda: clock[0])
    refusals.record(ResourceOperation(), "no READ")
    assert refusals.current_reasons() == ["no READ"]
    assert refusals.recent_reason(ResourceOperation()) == ""  # it may be something else
    clock[0] = 100.0
    assert refusals.current_reasons() == []


@pytest.mark.slow
def test_alert_waits_while_it_may_not_read_and_reads_on_once_it_may(
    guarded: AclBroker, place: KafkaConfig, tmp_path: Path
) -> None:
    for right in ("DESCRIBE", "WRITE"):
        guarded.grant(right, "TOPIC", place.prefix, prefix=True)
    for topic in ALERT.reads:
        guarded.grant("READ", "TOPIC", place.prefix + topic)
    wait_for_rights(lambda: not missing_acls(place, ALERT))
    data, said = tmp_path / "data", tmp_path / "said"
    with run_longwatch("alert", "-c", a_site(tmp_path, place), errors=said) as process:
        wait_for((data / "longwatch.db").exists, 100)
        time.sleep(5)
        assert read_role_problems(data) == []
        guarded.revoke("READ", "TOPIC", place.prefix + FINDINGS)
        wait_for(lambda: read_role_problems(data), 100)
        (held,) = read_role_problems(data)
        assert f"topic {place.prefix}findings: the right READ is missing" in held.reason
        time.sleep(5)
        assert process.poll() is None
        guarded.grant("READ", "TOPIC", place.prefix + FINDINGS)
        wait_for(lambda: not read_role_problems(data), 100)
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    lines = [json.loads(line) for line in said.read_text().splitlines()]
    lines_found = [line for line in lines if "the right READ is missing" in line["event"]]
    assert len(lines_found) == 1
    held_lines = [line for line in lines if line["event"] == "role held back until it is allowed"]
    assert [line["reason"] for line in held_lines] == [held.reason]
    assert not any("exception" in line for line in lines)
    assert [line["event"] for line in lines].count("process started") == 1


@pytest.mark.slow
def test_a_service_that_is_not_let_in_ends_with_2_and_the_words_of_the_broker(
    guarded: AclBroker, tmp_path: Path
) -> None:
    kafka_config = guarded.place_of(sasl=sasl_of("longwatch", "wr0ng-c4n4ry"))
    for role in ("ingest", "alert"):
        ended = longwatch(role, "-c", a_site(tmp_path, kafka_config))
        assert ended.returncode == 2
        last = ended.stderr.splitlines()[-1]
        assert f"kafka at {guarded.address}: it refuses longwatch: Authentication failed" in last
        assert "Traceback" not in ended.stderr
        assert "wr0ng" not in ended.stderr


@pytest.mark.slow
def test_a_quota_that_slows_a_reader_is_named(guarded: AclBroker) -> None:
    kafka_config = guarded.place_of(user="guest", partitions=1)
    owner = replace(kafka_config, sasl=sasl_of("owner"))
    with closing(KafkaLog(owner)) as log:
        log.append(FINDINGS, "dock", *(os.urandom(100_000) for _ in range(5)))
    guarded.grant("READ", "TOPIC", kafka_config.prefix, prefix=True, user="guest")
    guarded.run(
        "kafka.admin.ConfigCommand", "--bootstrap-server", guarded.inter_broker_address, "--alter",
        "--add-config", "consumer_byte_rate=1000", "--entity-type", "users",
        "--entity-name", "guest",
    )  # fmt: skip
    with closing(create_partition_consumer(kafka_config)) as consumer:
        partition = TopicPartition(kafka_config.prefix + FINDINGS, 0)
        consumer.assign_at({partition: 0})
        wait_for(lambda: [consumer.poll_records(200, 100), quota_error(consumer)][1], 100)
        late = consumer.no_answer_error(partition, "findings-0")
    assert "a quota of the broker slows us down" in str(to_storage_error(kafka_config, late))
