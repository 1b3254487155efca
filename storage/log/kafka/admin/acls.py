"""Which access rights (ACLs) a role lacks on a Kafka cluster."""

from collections.abc import Iterator
from contextlib import closing
from typing import Any

import kafka.errors
from kafka import KafkaAdminClient

from storage.errors import StorageUnfit
from storage.log.access import LogAccess
from storage.log.kafka.admin.metadata import TOPIC_UNAUTHORIZED
from storage.log.kafka.client.config import KafkaConfig
from storage.log.kafka.client.errors import (
    missing_acl,
    refusal_reason,
    refused_as_unfit,
    translate_errors,
)
from storage.log.kafka.client.network import create_client
from storage.log.kafka.client.refusals import ResourceOperation


def check_acls(config: KafkaConfig, access: LogAccess) -> None:
    """Raise StorageUnfit that names each missing right; raises StorageDown."""
    with refused_as_unfit():
        missing = missing_acls(config, access)
    if missing:
        raise StorageUnfit(config.name, "; ".join(missing))


def missing_acls(config: KafkaConfig, access: LogAccess) -> list[str]:
    """Return each missing right, as the cluster reports it (KIP-430), and how to grant it.

    Nothing is read or written. No right counts as missing on a topic that does not exist, or on a
    cluster that does not report rights. Raises StorageDown and StorageRefused.
    """
    with translate_errors(config), closing(create_client(KafkaAdminClient, config)) as admin:
        return [
            *_missing_topic_acls(admin, config, access),
            *_missing_group_acls(admin, config, access),
        ]


def _missing_topic_acls(
    admin: KafkaAdminClient, config: KafkaConfig, access: LogAccess
) -> Iterator[str]:
    names = sorted(config.prefix + topic for topic in access.reads | access.writes)
    for found in admin.describe_topics(names) if names else []:
        topic = found["name"].removeprefix(config.prefix)
        allowed = _allowed_operations(found)
        for operation, topics in (("READ", access.reads), ("WRITE", access.writes)):
            if topic in topics and allowed is not None and operation not in allowed:
                yield missing_acl(config, "topic", found["name"], operation)


def _allowed_operations(found: dict[str, Any]) -> list[str] | None:
    """Return the rights on an existing topic; None if the cluster does not report them."""
    if found["error_code"] == TOPIC_UNAUTHORIZED:
        return []
    allowed: list[str] | None = found.get("authorized_operations")
    return allowed or None


def _missing_group_acls(
    admin: KafkaAdminClient, config: KafkaConfig, access: LogAccess
) -> Iterator[str]:
    """Yield the missing rights to join groups; a group that was never joined reports little."""
    for name in sorted(config.prefix + group for group in access.groups):
        try:
            found = admin.describe_groups([name])[name]
        except kafka.errors.CoordinatorNotAvailableError:  # the cluster never had a group
            continue
        except kafka.errors.AuthorizationError as error:
            yield refusal_reason(config, error, ResourceOperation(group=name))
            continue
        allowed = found.get("authorized_operations")
        if allowed and "READ" not in allowed:
            yield missing_acl(config, "group", name, "READ")
