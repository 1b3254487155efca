"""Which rights a role needs on a Kafka cluster, and which of them it has not."""

from collections.abc import Iterator
from contextlib import closing
from typing import Any

import kafka.errors
from kafka import KafkaAdminClient

from storage.errors import StorageUnfit
from storage.kafka_client import connected
from storage.kafka_errors import at_start, missing_right, named, refusal_of
from storage.kafka_metadata import TOPIC_UNAUTHORIZED
from storage.kafka_place import KafkaPlace
from storage.needs import Needs
from storage.refusals import Use


def check_rights(place: KafkaPlace, needs: Needs) -> None:
    """Raise StorageUnfit with each right that is missing, and StorageDown."""
    with at_start():
        missing = missing_rights(place, needs)
    if missing:
        raise StorageUnfit(place.name, "; ".join(missing))


def missing_rights(place: KafkaPlace, needs: Needs) -> list[str]:
    """Return what is missing, as the cluster itself says (KIP-430), and how to give it.

    Nothing is read or written. A topic that is not there lacks no right, nor does a cluster that
    does not tell. Raises StorageDown and StorageRefused.
    """
    with named(place), closing(connected(KafkaAdminClient, place)) as admin:
        return [*_of_topics(admin, place, needs), *_of_groups(admin, place, needs)]


def _of_topics(admin: KafkaAdminClient, place: KafkaPlace, needs: Needs) -> Iterator[str]:
    names = sorted(place.prefix + topic for topic in needs.reads | needs.writes)
    for found in admin.describe_topics(names) if names else []:
        topic = found["name"].removeprefix(place.prefix)
        given = _given(found)
        for right, topics in (("READ", needs.reads), ("WRITE", needs.writes)):
            if topic in topics and given is not None and right not in given:
                yield missing_right(place, "topic", found["name"], right)


def _given(found: dict[str, Any]) -> list[str] | None:
    """Return the rights on a topic that is there; None where the cluster does not tell."""
    if found["error_code"] == TOPIC_UNAUTHORIZED:
        return []
    given: list[str] | None = found.get("authorized_operations")
    return given or None


def _of_groups(admin: KafkaAdminClient, place: KafkaPlace, needs: Needs) -> Iterator[str]:
    """Yield the groups that may not be joined; of one that nobody ever joined little is known."""
    for name in sorted(place.prefix + group for group in needs.groups):
        try:
            found = admin.describe_groups([name])[name]
        except kafka.errors.CoordinatorNotAvailableError:  # there was never any group
            continue
        except kafka.errors.AuthorizationError as error:
            yield refusal_of(place, error, Use(group=name))
            continue
        given = found.get("authorized_operations")
        if given and "READ" not in given:
            yield missing_right(place, "group", name, "READ")
