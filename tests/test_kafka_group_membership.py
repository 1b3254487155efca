"""Who owns which partition on Kafka: tenures, what a zombie cannot do, and why nothing is given."""

from collections.abc import Iterator
from contextlib import closing, contextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kafka import KafkaAdminClient
from kafka.admin import ACL, ACLOperation, ACLPermissionType, ResourcePattern, ResourceType

from kit.kafka.broker import Broker, run_broker
from storage.errors import OffsetMoved, StorageBlocked, StorageError, StorageUnfit
from storage.log.kafka.client.config import KafkaConfig
from storage.log.kafka.groups.join_failures import PartitionGenerations
from storage.log.kafka.groups.membership import KafkaGroupMembership
from storage.log.kafka.log import KafkaLog
from storage.records.topics import REQUESTS, WINDOWS
from test_log_contract import until

READER = "analyzer"
A, B = "windows-0", "windows-1"


def test_a_part_kept_from_one_generation_to_the_next_keeps_its_tenure() -> None:
    tenures = PartitionGenerations()
    tenures.update(frozenset({A, B}), "me", 4)
    first = tenures.generation(A)
    tenures.update(frozenset({A}), "me", 5)
    assert (tenures.generation(A), tenures.generation(B)) == (first, 0)
    tenures.update(frozenset({A, B}), "me", 6)
    assert tenures.generation(A) == first
    assert tenures.generation(B) not in (0, first)


@pytest.mark.parametrize(("member", "generation"), [("me", 6), ("me", 1), ("another", 5)])
def test_where_another_may_have_had_a_part_its_tenure_is_new(member: str, generation: int) -> None:
    tenures = PartitionGenerations()
    tenures.update(frozenset({A}), "me", 4)
    first = tenures.generation(A)
    tenures.update(frozenset({A}), member, generation)
    assert tenures.generation(A) not in (0, first)


def test_a_member_that_lost_its_group_has_a_new_tenure_in_the_very_next_generation() -> None:
    tenures = PartitionGenerations()
    tenures.update(frozenset({A}), "me", 4)
    first = tenures.generation(A)
    tenures.clear()
    assert (tenures.partitions, tenures.generation(A), tenures.is_member) == (frozenset(), 0, False)
    tenures.update(frozenset({A}), "me", 5)
    assert tenures.generation(A) not in (0, first)


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 3), st.booleans()), max_size=30))
def test_no_tenure_outlives_a_generation_in_which_another_may_have_owned_the_part(
    steps: list[tuple[bool, int, bool]],
) -> None:
    tenures, generation, broken = PartitionGenerations(), 0, 0
    seen = dict[int, int]()  # tenure to how often it was broken before
    for is_mine, skipped, is_lost in steps:
        if is_lost:
            tenures.clear()
        generation += 1 + skipped
        broken += is_lost or skipped > 0 or not is_mine
        tenures.update(frozenset({A} if is_mine else ()), "me", generation)
        if is_mine:
            assert seen.setdefault(tenures.generation(A), broken) == broken


@contextmanager
def two_logs(kafka_config: KafkaConfig) -> Iterator[tuple[KafkaLog, KafkaLog]]:
    with closing(KafkaLog(kafka_config)) as one, closing(KafkaLog(kafka_config)) as other:
        yield one, other


def tenures_of(share: KafkaGroupMembership) -> dict[str, int]:
    return {partition: share.generation(partition) for partition in share.partitions()}


def commit(share: KafkaGroupMembership, partition: str, offset: int, tenure: int) -> None:
    """Commit, as soon as it is settled who owns what."""

    def is_done() -> bool:
        try:
            share.commit(partition, offset, tenure)
        except StorageBlocked:
            return False
        return True

    until(is_done, 10)


def test_a_rebalance_that_leaves_a_part_with_its_owner_refuses_nothing(kafka: Broker) -> None:
    with two_logs(kafka.place(session=10.0)) as (log, other_log):
        membership = log.join_group(READER, WINDOWS)
        until(lambda: len(membership.partitions()) == 4, 20)
        before = tenures_of(membership)
        other = other_log.join_group(READER, WINDOWS)
        until(lambda: len(membership.partitions()) == len(other.partitions()) == 2, 20)
        kept = tenures_of(membership)
        assert kept.items() <= before.items()
        for partition, tenure in kept.items():
            commit(membership, partition, 7, tenure)
            commit(membership, partition.replace(WINDOWS, REQUESTS), 3, tenure)
        for partition, tenure in before.items() - kept.items():
            with pytest.raises(OffsetMoved):
                membership.commit(partition, 9, tenure)
        other.close()
        until(lambda: len(membership.partitions()) == 4, 20)
        assert kept.items() <= tenures_of(membership).items()
        for partition, tenure in before.items() - kept.items():
            with pytest.raises(OffsetMoved):  # it is owned again, and another had it
                membership.commit(partition, 9, tenure)
            assert membership.committed(partition) == 0
        membership.close()


def test_a_member_that_hung_commits_nothing_that_it_read_before_even_if_it_owns_it_again(
    kafka: Broker,
) -> None:
    """D16: it committed 12 where its heir had committed 14."""
    with two_logs(kafka.place(session=3.0)) as (log, other_log):
        zombie = log.join_group(READER, WINDOWS)
        until(lambda: len(zombie.partitions()) == 4, 10)
        partition, tenure = A, zombie.generation(A)
        commit(zombie, partition, 10, tenure)
        with zombie._lock:  # its group thread hangs, and knows nothing
            heir = other_log.join_group(READER, WINDOWS)
            until(lambda: len(heir.partitions()) == 4, 10)
            commit(heir, partition, 14, heir.generation(partition))
            heir.close()
            assert partition in zombie.partitions()
        with pytest.raises((OffsetMoved, StorageBlocked)):
            zombie.commit(partition, 12, tenure)
        until(lambda: len(zombie.partitions()) == 4 and zombie.generation(partition) != tenure, 10)
        for old in (partition, partition.replace(WINDOWS, REQUESTS)):
            with pytest.raises(OffsetMoved):
                zombie.commit(old, 12, tenure)
        assert zombie.committed(partition) == 14
        commit(zombie, partition, 15, zombie.generation(partition))
        assert zombie.committed(partition) == 15
        zombie.close()


@pytest.fixture(name="stern", scope="module")
def a_stern_broker() -> Iterator[Broker]:
    """Run a broker on which no group can work, and on which a group may be forbidden."""
    settings = {
        "offsets.topic.replication.factor": "3",
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "allow.everyone.if.no.acl.found": "true",
    }
    with run_broker(settings=settings) as broker:
        yield broker


def why_nothing_is_given(kafka_config: KafkaConfig) -> StorageError:
    found = list[StorageError]()
    with closing(KafkaLog(kafka_config)) as log:
        membership = log.join_group(READER, WINDOWS)

        def is_told() -> bool:
            try:
                membership.partitions()
            except StorageError as error:
                found.append(error)
            return bool(found)

        until(is_told, 20)
        membership.close()
    return found[0]


def test_a_broker_on_which_no_group_can_work_is_named_with_its_setting(
    stern: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("storage.log.kafka.groups.membership.UNASSIGNED_SECONDS", 1.0)
    told = why_nothing_is_given(stern.place())
    assert isinstance(told, StorageUnfit)
    assert "offsets.topic.replication.factor is 3, brokers: 1; set it to 1" in str(told)


def test_a_missing_right_on_the_group_is_named_at_once(stern: Broker) -> None:
    kafka_config = stern.place()
    group = kafka_config.prefix + READER
    admin = KafkaAdminClient(bootstrap_servers=stern.address)
    pattern = ResourcePattern(ResourceType.GROUP, group)
    admin.create_acls(
        [ACL("User:somebody", "*", ACLOperation.READ, ACLPermissionType.ALLOW, pattern)]
    )
    admin.close()
    told = why_nothing_is_given(kafka_config)
    assert isinstance(told, StorageUnfit)
    assert f"group {group}: the right READ is missing: kafka-acls.sh" in str(told)


def test_a_session_that_the_broker_does_not_take_names_the_setting(kafka: Broker) -> None:
    told = why_nothing_is_given(kafka.place(session=0.5))
    assert isinstance(told, StorageUnfit)
    assert "no log.kafka.session of 0.5 s: see its group.min.session.timeout.ms" in str(told)
