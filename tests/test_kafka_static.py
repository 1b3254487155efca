"""Static members on Kafka: a restart that costs no rebalance, a name that one process has."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from multiprocessing import get_context
from multiprocessing.process import BaseProcess

import pytest
from kafka import KafkaConsumer
from kafka.coordinator.assignors.sticky.sticky_assignor import StickyPartitionAssignor
from kafka.errors import KafkaError
from kafka.protocol.consumer.metadata import ConsumerProtocolSubscription
from kafka.structs import TopicPartition

from kit.kafka.broker import Broker
from storage.errors import StorageRefused, StorageUnfit
from storage.log.kafka.client.config import KafkaConfig, StaticMember
from storage.log.kafka.groups.join_failures import JoinFailure, JoinFailureKind
from storage.log.kafka.groups.membership import KafkaGroupMembership
from storage.log.kafka.groups.static_membership import (
    MemberDescription,
    MemberOwner,
    OwnerAssignor,
    StaticNameCheck,
    describe_members,
    remove_static_member,
)
from storage.log.kafka.log import KafkaLog
from storage.processes import process_identity
from storage.records.topics import WINDOWS
from test_log_contract import until

READER = "analyzer"
ELSEWHERE = MemberOwner(host="host-b", process="its-boot/pid:[4026531836]/12@345")
SPAWN = get_context("forkserver")
SPAWN.set_forkserver_preload(["storage.log.kafka.log"])


def named(kafka_config: KafkaConfig, name: str, session: float = 4.0) -> KafkaConfig:
    return replace(kafka_config, static=StaticMember(name=name, session=session))


def group_of(kafka_config: KafkaConfig) -> str:
    return kafka_config.prefix + READER


@contextmanager
def joined(kafka_config: KafkaConfig) -> Iterator[KafkaGroupMembership]:
    with (
        closing(KafkaLog(kafka_config)) as log,
        closing(log.join_group(READER, WINDOWS)) as membership,
    ):
        yield membership


def owns(share: KafkaGroupMembership, count: int) -> bool:
    with suppress(StorageRefused):
        return len(share.partitions()) == count
    return False


@contextmanager
def stranger(
    kafka_config: KafkaConfig,
    name: str,
    holder: MemberOwner,
    session: float = 4.0,
    *,
    topic_is_there: bool = True,
) -> Iterator[None]:
    """Be a member of that name whose process is elsewhere, for as long as the context is open."""
    if topic_is_there:
        KafkaLog(kafka_config).close()
    consumer = KafkaConsumer(
        bootstrap_servers=list(kafka_config.bootstrap),
        group_id=group_of(kafka_config),
        group_instance_id=name,
        enable_auto_commit=False,
        session_timeout_ms=int(session * 1000),
        heartbeat_interval_ms=300,
        partition_assignment_strategy=(OwnerAssignor(holder),),
        allow_auto_create_topics=False,
    )
    consumer.subscribe([kafka_config.prefix + WINDOWS])
    if topic_is_there:
        until(lambda: consumer._coordinator._metadata_snapshot.get(kafka_config.prefix + WINDOWS))
    stop = threading.Event()
    thread = threading.Thread(target=poll_until, args=(consumer, stop))
    thread.start()
    try:
        until(
            lambda: (
                name
                in {each.name for each in describe_members(kafka_config, group_of(kafka_config))}
            )
        )
        yield
    finally:
        stop.set()
        thread.join()
        consumer.close(autocommit=False)


def poll_until(consumer: KafkaConsumer, stop: threading.Event) -> None:
    while not stop.wait(0.05):
        with suppress(KafkaError):
            consumer._coordinator.poll(timeout_ms=500)


def hold(kafka_config: KafkaConfig) -> None:
    """Join, in a process of its own, until it is killed."""
    membership = KafkaLog(kafka_config).join_group(READER, WINDOWS)
    while True:
        time.sleep(0.1)
        with suppress(StorageRefused):
            membership.partitions()


@contextmanager
def process_with(kafka_config: KafkaConfig) -> Iterator[BaseProcess]:
    process = SPAWN.Process(target=hold, args=(kafka_config,), daemon=True)
    process.start()
    try:
        yield process
    finally:
        process.kill()
        process.join()


def member_of(kafka_config: KafkaConfig, name: str) -> MemberDescription | None:
    found = (
        each for each in describe_members(kafka_config, group_of(kafka_config)) if each.name == name
    )
    return next(found, None)


def is_settled(kafka_config: KafkaConfig, name: str) -> bool:
    """Return whether a member has partitions: in a rebalance nobody knows its holder."""
    found = member_of(kafka_config, name)
    return found is not None and bool(found.partitions)


def generation_of(share: KafkaGroupMembership) -> int:
    return int(share._member.state.generation_id)


def raised_by(share: KafkaGroupMembership, kind: type[Exception], seconds: float) -> str:
    found = list[str]()

    def is_raised() -> bool:
        try:
            share.partitions()
        except kind as error:
            found.append(str(error))
        except StorageRefused:
            pass
        return bool(found)

    until(is_raised, seconds)
    return found[0]


def test_a_restart_gives_the_same_parts_again_and_the_others_notice_nothing(kafka: Broker) -> None:
    kafka_config = kafka.place(session=3.0)
    with joined(named(kafka_config, "other", 30.0)) as other:
        with joined(named(kafka_config, "ours", 30.0)) as ours:
            until(lambda: owns(ours, 2) and owns(other, 2), 20)
            before = ours.partitions()
            tenures = {partition: other.generation(partition) for partition in other.partitions()}
            generation = generation_of(other)
        time.sleep(1.0)
        with joined(named(kafka_config, "ours", 30.0)) as ours:
            until(lambda: owns(ours, 2), 20)
            time.sleep(1.5)  # two heartbeats: of any rebalance all have heard
            assert ours.partitions() == before
            assert {
                partition: other.generation(partition) for partition in other.partitions()
            } == tenures
            assert generation_of(ours) == generation_of(other) == generation


def test_a_member_away_for_longer_than_its_session_loses_its_parts(kafka: Broker) -> None:
    kafka_config = kafka.place(session=3.0)
    with joined(named(kafka_config, "other")) as other:
        with joined(named(kafka_config, "ours", session=3.0)) as ours:
            until(lambda: owns(ours, 2) and owns(other, 2), 20)
        until(lambda: owns(other, 4), 12)


def test_one_that_is_fenced_ends_with_the_name_and_leaves_the_name_to_the_other(
    kafka: Broker,
) -> None:
    kafka_config = kafka.place(session=3.0)
    with joined(named(kafka_config, "ours")) as ours:
        until(lambda: owns(ours, 4), 20)
        with stranger(kafka_config, "ours", ELSEWHERE):
            until(lambda: (found := member_of(kafka_config, "ours")) and found.owner == ELSEWHERE)
            told = raised_by(ours, StorageUnfit, 10)
            assert (
                f"group {group_of(kafka_config)}: another process is static member ours: stop"
                in told
            )
            assert "give each its own log.kafka.static.name" in told
            assert ours.generation("windows-0") == 0
            ours.close()
            time.sleep(0.5)
            found = member_of(kafka_config, "ours")
            assert found is not None
            assert found.owner == ELSEWHERE


def test_one_that_stops_before_it_hears_that_it_was_fenced_leaves_the_name_alone(
    kafka: Broker,
) -> None:
    kafka_config = kafka.place(session=30.0)  # it is heard of every 6 s
    with joined(named(kafka_config, "ours", 30.0)) as ours:
        until(lambda: owns(ours, 4), 20)
        with stranger(kafka_config, "ours", ELSEWHERE):
            until(lambda: (found := member_of(kafka_config, "ours")) and found.owner == ELSEWHERE)
            ours.close()
            found = member_of(kafka_config, "ours")
            assert found is not None
            assert found.owner == ELSEWHERE


def test_a_name_that_a_process_of_this_host_has_is_refused_and_it_notices_nothing(
    kafka: Broker,
) -> None:
    place = named(kafka.place(session=3.0), "ours")
    with process_with(place) as process:
        until(lambda: is_settled(place, "ours"), 30)
        first = member_of(place, "ours")
        with joined(place) as share:
            told = raised_by(share, StorageUnfit, 10)
        assert f"process {process.pid} of this host is static member ours: stop one" in told
        time.sleep(1.0)
        assert member_of(place, "ours") == first


def test_the_name_of_a_process_that_was_killed_here_is_taken_at_once(kafka: Broker) -> None:
    place = named(kafka.place(session=3.0), "ours", session=30.0)
    with process_with(place) as process:
        until(lambda: is_settled(place, "ours"), 30)
        os.kill(process.pid or 0, signal.SIGKILL)
        process.join()
        with joined(place) as membership:
            until(lambda: owns(membership, 4), 15)  # its session lasts 30 s


def test_one_that_may_run_on_another_host_is_waited_for_and_not_fenced(kafka: Broker) -> None:
    place = named(kafka.place(session=3.0), "ours", session=3.0)
    with stranger(place, "ours", ELSEWHERE, session=3.0):
        first = member_of(place, "ours")
        with joined(place) as share:
            told = raised_by(share, StorageRefused, 5)
            assert f"group {group_of(place)}: ours is a member already, on host-b:" in told
            assert "waiting until it ends, 3 s at most" in told
            assert "it is" not in raised_by(share, StorageUnfit, 10)
        assert member_of(place, "ours") == first


def test_one_that_was_killed_on_another_host_is_followed_once_its_session_is_over(
    kafka: Broker,
) -> None:
    place = named(kafka.place(session=3.0), "ours", session=3.0)
    with stranger(place, "ours", ELSEWHERE, session=3.0):
        pass
    with joined(place) as share:
        assert "on host-b" in raised_by(share, StorageRefused, 5)
        until(lambda: owns(share, 4), 10)


def test_partitions_that_nobody_was_given_are_given_at_a_restart(kafka: Broker) -> None:
    """One that joined before it knew the topic was given nothing, and a restart asks nobody."""
    place = named(kafka.place(session=3.0), "ours", session=30.0)
    with stranger(place, "ours", MemberOwner(process=process_identity()), topic_is_there=False):
        pass
    found = member_of(place, "ours")
    assert found is not None
    assert not found.partitions
    with joined(place) as share:
        until(lambda: owns(share, 4), 10)


def test_one_that_said_that_it_stops_is_followed_at_once_from_any_host(kafka: Broker) -> None:
    place = named(kafka.place(session=3.0), "ours", session=30.0)
    with stranger(place, "ours", replace(ELSEWHERE, has_stopped=True), session=30.0):
        pass
    with joined(place) as share:
        until(lambda: owns(share, 4), 15)
    found = member_of(place, "ours")
    assert found is not None
    assert found.owner.has_stopped
    assert found.owner.process == process_identity()


def test_one_that_hangs_gives_its_parts_to_others_at_once(kafka: Broker) -> None:
    kafka_config = kafka.place(session=3.0)
    with (
        joined(named(kafka_config, "other")) as other,
        joined(named(kafka_config, "ours", 60.0)) as ours,
    ):
        until(lambda: owns(ours, 2) and owns(other, 2), 20)
        ours.keepalive(0.0)
        until(lambda: owns(other, 4), 10)
        assert member_of(kafka_config, "ours") is None
        ours.keepalive(60.0)
        until(lambda: owns(ours, 2) and owns(other, 2), 20)


def test_a_removed_member_gives_its_parts_to_others_at_once(kafka: Broker) -> None:
    kafka_config = kafka.place(session=3.0)
    with joined(named(kafka_config, "other")) as other:
        with joined(named(kafka_config, "ours", 60.0)) as ours:
            until(lambda: owns(ours, 2) and owns(other, 2), 20)
        assert remove_static_member(kafka_config, group_of(kafka_config), "ours")
        until(lambda: owns(other, 4), 10)
    assert not remove_static_member(kafka_config, group_of(kafka_config), "ours")


def test_a_session_beyond_what_the_broker_takes_names_its_own_setting(kafka: Broker) -> None:
    with joined(named(kafka.place(session=3.0), "ours", session=3600.0)) as share:
        told = raised_by(share, StorageUnfit, 10)
    assert "it accepts no log.kafka.static.session of 3600 s" in told
    assert "group.max.session.timeout.ms" in told


@pytest.mark.parametrize("partitions", [[], [0, 3, 200, 999]])
def test_members_of_another_release_read_the_same_assignment(partitions: list[int]) -> None:
    assignor = OwnerAssignor(ELSEWHERE)
    assignor.member_assignment = [TopicPartition("windows", each) for each in partitions]
    assignor.generation = 7
    sent = assignor.metadata({"windows"}).encode()
    read = StickyPartitionAssignor.parse_member_metadata(ConsumerProtocolSubscription.decode(sent))
    assert read.partitions == assignor.member_assignment
    assert (read.subscription, read.generation) == (["windows"], 7)


@pytest.mark.parametrize(
    ("holder", "kind"),
    [
        (MemberOwner(process=process_identity()), None),
        (replace(ELSEWHERE, has_stopped=True), None),
        (MemberOwner(process=f"{process_identity().rpartition('/')[0]}/{os.getpid()}@1"), None),
        (ELSEWHERE, JoinFailureKind.NAME_IN_USE),
        (MemberOwner(), JoinFailureKind.NAME_IN_USE),
    ],
)
def test_who_may_be_followed_at_once(holder: MemberOwner, kind: JoinFailureKind | None) -> None:
    kafka_config = KafkaConfig(bootstrap=("kafka:9092",))
    vacancy = StaticNameCheck(kafka_config, "g", StaticMember(name="ours"))
    found = vacancy.update(MemberDescription(name="ours", id="ours-1", owner=holder))
    assert (found and found.kind) == kind


def test_one_that_outlives_its_session_runs_and_each_new_one_has_a_session_of_its_own() -> None:
    place, now = KafkaConfig(bootstrap=("kafka:9092",)), [0.0]
    vacancy = StaticNameCheck(place, "g", StaticMember(name="ours", session=60.0), lambda: now[0])
    judge: Callable[[str], JoinFailure | None] = lambda id: vacancy.update(  # noqa: E731
        MemberDescription(name="ours", id=id, owner=ELSEWHERE)
    )
    kinds = []
    for seconds, id in ((0, "1"), (61, "1"), (62, "2"), (123, "2"), (125, "2")):
        now[0] = float(seconds)
        found = judge(id)
        kinds.append(found and found.kind)
    assert kinds == [JoinFailureKind.NAME_IN_USE] * 4 + [JoinFailureKind.NAME_CONFLICT]
