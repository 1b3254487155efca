"""Who owns which partition on Kafka: tenures, what a zombie cannot do, and why nothing is given."""

from collections.abc import Iterator
from contextlib import closing, contextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kafka import KafkaAdminClient
from kafka.admin import ACL, ACLOperation, ACLPermissionType, ResourcePattern, ResourceType
from kafka_broker import Broker, running
from test_log_contract import until

from storage.errors import PositionMoved, StorageBlocked, StorageError, StorageUnfit
from storage.kafka_group import Tenures
from storage.kafka_log import KafkaLog
from storage.kafka_place import KafkaPlace
from storage.kafka_share import KafkaShare
from storage.log import REQUESTS, WINDOWS

READER = "analyzer"
A, B = "windows-0", "windows-1"


def test_a_part_kept_from_one_generation_to_the_next_keeps_its_tenure() -> None:
    tenures = Tenures()
    tenures.settle(frozenset({A, B}), "me", 4)
    first = tenures.of(A)
    tenures.settle(frozenset({A}), "me", 5)
    assert (tenures.of(A), tenures.of(B)) == (first, 0)
    tenures.settle(frozenset({A, B}), "me", 6)
    assert tenures.of(A) == first
    assert tenures.of(B) not in (0, first)


@pytest.mark.parametrize(("member", "generation"), [("me", 6), ("me", 1), ("another", 5)])
def test_where_another_may_have_had_a_part_its_tenure_is_new(member: str, generation: int) -> None:
    tenures = Tenures()
    tenures.settle(frozenset({A}), "me", 4)
    first = tenures.of(A)
    tenures.settle(frozenset({A}), member, generation)
    assert tenures.of(A) not in (0, first)


def test_a_member_that_lost_its_group_has_a_new_tenure_in_the_very_next_generation() -> None:
    tenures = Tenures()
    tenures.settle(frozenset({A}), "me", 4)
    first = tenures.of(A)
    tenures.end()
    assert (tenures.parts, tenures.of(A), tenures.is_member) == (frozenset(), 0, False)
    tenures.settle(frozenset({A}), "me", 5)
    assert tenures.of(A) not in (0, first)


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 3), st.booleans()), max_size=30))
def test_no_tenure_outlives_a_generation_in_which_another_may_have_owned_the_part(
    steps: list[tuple[bool, int, bool]],
) -> None:
    tenures, generation, broken = Tenures(), 0, 0
    seen = dict[int, int]()  # tenure to how often it was broken before
    for is_mine, skipped, is_lost in steps:
        if is_lost:
            tenures.end()
        generation += 1 + skipped
        broken += is_lost or skipped > 0 or not is_mine
        tenures.settle(frozenset({A} if is_mine else ()), "me", generation)
        if is_mine:
            assert seen.setdefault(tenures.of(A), broken) == broken


@contextmanager
def two_logs(place: KafkaPlace) -> Iterator[tuple[KafkaLog, KafkaLog]]:
    with closing(KafkaLog(place)) as one, closing(KafkaLog(place)) as other:
        yield one, other


def tenures_of(share: KafkaShare) -> dict[str, int]:
    return {part: share.tenure(part) for part in share.parts()}


def commit(share: KafkaShare, part: str, position: int, tenure: int) -> None:
    """Commit, as soon as it is settled who owns what."""

    def is_done() -> bool:
        try:
            share.commit(part, position, tenure)
        except StorageBlocked:
            return False
        return True

    until(is_done, 10)


def test_a_rebalance_that_leaves_a_part_with_its_owner_refuses_nothing(kafka: Broker) -> None:
    with two_logs(kafka.place(session=10.0)) as (log, other_log):
        share = log.join(READER, WINDOWS)
        until(lambda: len(share.parts()) == 4, 20)
        before = tenures_of(share)
        other = other_log.join(READER, WINDOWS)
        until(lambda: len(share.parts()) == len(other.parts()) == 2, 20)
        kept = tenures_of(share)
        assert kept.items() <= before.items()
        for part, tenure in kept.items():
            commit(share, part, 7, tenure)
            commit(share, part.replace(WINDOWS, REQUESTS), 3, tenure)
        for part, tenure in before.items() - kept.items():
            with pytest.raises(PositionMoved):
                share.commit(part, 9, tenure)
        other.close()
        until(lambda: len(share.parts()) == 4, 20)
        assert kept.items() <= tenures_of(share).items()
        for part, tenure in before.items() - kept.items():
            with pytest.raises(PositionMoved):  # it is owned again, and another had it
                share.commit(part, 9, tenure)
            assert share.committed(part) == 0
        share.close()


def test_a_member_that_hung_commits_nothing_that_it_read_before_even_if_it_owns_it_again(
    kafka: Broker,
) -> None:
    """D16: it committed 12 where its heir had committed 14."""
    with two_logs(kafka.place(session=3.0)) as (log, other_log):
        zombie = log.join(READER, WINDOWS)
        until(lambda: len(zombie.parts()) == 4, 10)
        part, tenure = A, zombie.tenure(A)
        commit(zombie, part, 10, tenure)
        with zombie._lock:  # its group thread hangs, and knows nothing
            heir = other_log.join(READER, WINDOWS)
            until(lambda: len(heir.parts()) == 4, 10)
            commit(heir, part, 14, heir.tenure(part))
            heir.close()
            assert part in zombie.parts()
        with pytest.raises((PositionMoved, StorageBlocked)):
            zombie.commit(part, 12, tenure)
        until(lambda: len(zombie.parts()) == 4 and zombie.tenure(part) != tenure, 10)
        for old in (part, part.replace(WINDOWS, REQUESTS)):
            with pytest.raises(PositionMoved):
                zombie.commit(old, 12, tenure)
        assert zombie.committed(part) == 14
        commit(zombie, part, 15, zombie.tenure(part))
        assert zombie.committed(part) == 15
        zombie.close()


@pytest.fixture(name="stern", scope="module")
def a_stern_broker() -> Iterator[Broker]:
    """Run a broker on which no group can work, and on which a group may be forbidden."""
    settings = {
        "offsets.topic.replication.factor": "3",
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "allow.everyone.if.no.acl.found": "true",
    }
    with running(settings=settings) as broker:
        yield broker


def why_nothing_is_given(place: KafkaPlace) -> StorageError:
    found = list[StorageError]()
    with closing(KafkaLog(place)) as log:
        share = log.join(READER, WINDOWS)

        def is_told() -> bool:
            try:
                share.parts()
            except StorageError as error:
                found.append(error)
            return bool(found)

        until(is_told, 20)
        share.close()
    return found[0]


def test_a_broker_on_which_no_group_can_work_is_named_with_its_setting(
    stern: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("storage.kafka_share.UNASSIGNED", 1.0)
    told = why_nothing_is_given(stern.place())
    assert isinstance(told, StorageUnfit)
    assert "offsets.topic.replication.factor is 3, brokers: 1; set it to 1" in str(told)


def test_a_missing_right_on_the_group_is_named_at_once(stern: Broker) -> None:
    place = stern.place()
    group = place.prefix + READER
    admin = KafkaAdminClient(bootstrap_servers=stern.address)
    pattern = ResourcePattern(ResourceType.GROUP, group)
    admin.create_acls(
        [ACL("User:somebody", "*", ACLOperation.READ, ACLPermissionType.ALLOW, pattern)]
    )
    admin.close()
    told = why_nothing_is_given(place)
    assert isinstance(told, StorageUnfit)
    assert f"group {group}: the right READ is missing: kafka-acls.sh" in str(told)


def test_a_session_that_the_broker_does_not_take_names_the_setting(kafka: Broker) -> None:
    told = why_nothing_is_given(kafka.place(session=0.5))
    assert isinstance(told, StorageUnfit)
    assert "no log.kafka.session of 0.5 s: see its group.min.session.timeout.ms" in str(told)
