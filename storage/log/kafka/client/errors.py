"""Translate the errors of kafka-python into those of storage.

A refusal of a broker is StorageRefused: a running role waits until it ends. At the start it is
StorageUnfit (`refused_as_unfit`).
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager

import kafka.errors as kafka
from kafka import KafkaAdminClient
from kafka.errors import AuthorizationError, KafkaError

from storage.errors import StorageDown, StorageRefused, StorageUnfit
from storage.log.kafka.client.config import KafkaConfig
from storage.log.kafka.client.network import create_client
from storage.log.kafka.client.probe import BrokerProbe, join_problems, probe_brokers
from storage.log.kafka.client.refusals import ResourceOperation

_NO_RESOURCE = ResourceOperation()
_QUOTA_ERRORS = kafka.QuotaViolationError, kafka.ThrottlingQuotaExceededError
_NO_ANSWER_ERRORS = (
    OSError,
    kafka.Cancelled,
    kafka.KafkaConnectionError,
    kafka.KafkaTimeoutError,
    kafka.MetadataEmptyBrokerList,
    kafka.NodeNotReadyError,
    kafka.RequestTimedOutError,
)
"""What kafka-python raises if a broker sends nothing, or if it drops the reason."""
_EXPLANATIONS: dict[type[KafkaError], str] = {
    kafka.NotEnoughReplicasError: (
        "fewer replicas are in sync than min.insync.replicas of the topic asks for"
    ),
    kafka.CoordinatorNotAvailableError: (
        "no broker coordinates the group: can __consumer_offsets have the replicas that"
        " offsets.topic.replication.factor says?"
    ),
    kafka.UnknownTopicOrPartitionError: "the topic is missing: was it deleted?",
    kafka.LeaderNotAvailableError: "the partition has no leader for now",
    kafka.NotLeaderForPartitionError: "the partition moves to another broker",
    kafka.KafkaStorageError: "a disk of the broker fails",
    kafka.InvalidTimestampError: (
        "our clock differs too much from the broker's: set both by NTP, or"
        " message.timestamp.type=LogAppendTime on the topic"
    ),
    **dict.fromkeys(_QUOTA_ERRORS, "a quota of the broker slows us down"),
}
_EXPLANATIONS[kafka.NotEnoughReplicasAfterAppendError] = _EXPLANATIONS[kafka.NotEnoughReplicasError]
_EXPLANATIONS[kafka.UnknownTopicIdError] = _EXPLANATIONS[kafka.UnknownTopicOrPartitionError]
_REFUSED_TOPIC = re.compile(r"CreatableTopicResult\(.*?name='([^']+)'.*?error_code=29")
_REFUSED_GROUP = re.compile(r"GROUP/([^\s:]+)")


@contextmanager
def translate_errors(
    config: KafkaConfig, *, topic: str = "", operation: str = "", group: str = ""
) -> Iterator[None]:
    """Turn errors of kafka-python into StorageDown and StorageRefused.

    `topic`, `group` (names on the broker) and `operation` (READ, WRITE, ...) are reported if the
    error does not name them. With any of them, a refused operation is not retried for half a
    minute.
    """
    resource = ResourceOperation(topic, operation, group)
    if reason := config.refusals.recent_reason(resource):
        raise StorageRefused(config.name, reason)
    try:
        yield
    except (KafkaError, OSError) as error:
        translated = to_storage_error(config, error, resource)
        if isinstance(translated, StorageRefused):
            config.refusals.record(resource, translated.reason)
        raise translated from None
    if resource != _NO_RESOURCE:  # else another operation may have been allowed
        config.refusals.clear(resource)


@contextmanager
def refused_as_unfit() -> Iterator[None]:
    """Turn StorageRefused into StorageUnfit: a role does not wait for it at its start."""
    try:
        yield
    except StorageRefused as error:
        raise StorageUnfit(error.location, error.reason) from None


def check_brokers(config: KafkaConfig) -> None:
    """Raise StorageDown or StorageRefused, with each broker's reason, if none lets us in.

    It takes a few round trips; kafka-python would retry until it times out.
    """
    if problem := _no_broker_error(config, probe_brokers(config)):
        raise problem


def to_storage_error(
    config: KafkaConfig, error: Exception, resource: ResourceOperation = _NO_RESOURCE
) -> StorageDown | StorageRefused:
    """Return the storage error; a KafkaTimeoutError may have its reason as its cause."""
    if refusal := refusal_reason(config, error, resource):
        return StorageRefused(config.name, refusal)
    where = f"topic {resource.topic}: " if resource.topic else ""
    if isinstance(error.__cause__, KafkaError):
        return StorageDown(config.name, where + describe_error(error.__cause__))
    if isinstance(error, _NO_ANSWER_ERRORS):
        return _no_answer_error(config, error, resource)
    return StorageDown(config.name, where + describe_error(error))


def refusal_reason(
    config: KafkaConfig, error: BaseException, resource: ResourceOperation = _NO_RESOURCE
) -> str:
    """Return what is refused and what to do; empty for an error that is no refusal."""
    if isinstance(error, kafka.InvalidReplicationFactorError):
        return "fewer brokers than log.kafka.replication asks for: lower it"
    if isinstance(error, kafka.MessageSizeTooLargeError | kafka.RecordListTooLargeError):
        return f"it takes no message of {config.largest} bytes: raise its message.max.bytes"
    if isinstance(error, kafka.SaslAuthenticationFailedError | kafka.UnsupportedSaslMechanismError):
        return (
            join_problems(probe_brokers(config)) or f"{describe_error(error)}: see log.kafka.sasl"
        )
    # kafka-python (3.0.12) wraps a refusal at the start of an idempotent producer.
    is_wrapped = kafka.ClusterAuthorizationFailedError.__name__ in str(error)
    if is_wrapped or isinstance(error, AuthorizationError):
        return missing_acl(config, *_denied_operation(error, resource))
    return ""


def _denied_operation(error: BaseException, resource: ResourceOperation) -> tuple[str, str, str]:
    """Return the kind and the name of a resource, and the operation that is denied on it."""
    if new := _REFUSED_TOPIC.search(str(error)):
        return "topic", new[1], "CREATE"
    if isinstance(error, kafka.TopicAuthorizationFailedError):
        return "topic", _topic_names(error) or resource.topic, resource.operation or "READ or WRITE"
    if isinstance(error, kafka.GroupAuthorizationFailedError):
        found = _REFUSED_GROUP.search(str(error))
        return "group", found[1] if found else _topic_names(error) or resource.group, "READ"
    if isinstance(error, kafka.TransactionalIdAuthorizationFailedError):
        return "transactional-id", _topic_names(error), "WRITE"
    if (
        resource.topic and resource.operation == "WRITE"
    ):  # an idempotent producer needs no more (KIP-679)
        return "topic", resource.topic, resource.operation
    return "cluster", "", resource.operation or "IDEMPOTENT_WRITE"


def missing_acl(
    config: KafkaConfig, kind: str, name: str, operation: str, *, for_all: bool = False
) -> str:
    """Return that a right is missing, and the command that grants it, or `for_all` topics."""
    who = f"User:{config.sasl.user}" if config.sasl else "User:NAME"
    what = f"--{kind} {name}".rstrip()
    if for_all:
        prefix = config.prefix
        what = f"--topic {prefix} --resource-pattern-type prefixed" if prefix else "--topic '*'"
    options = " --operation ".join(operation.split(" or "))
    command = (
        f"kafka-acls.sh --bootstrap-server {config.bootstrap[0]} --add --allow-principal {who}"
        f" --operation {options} {what}"
    )
    return f"{kind} {name}".rstrip() + f": the right {operation} is missing: {command}"


def describe_error(error: BaseException) -> str:
    """Return an error of kafka-python in a few words, without the request that it repeats."""
    if isinstance(error, kafka.InvalidRecordError) and "imestamp" in str(error):
        error = kafka.InvalidTimestampError()  # brokers send either of the two
    known = _EXPLANATIONS.get(type(error))
    text = re.sub(r"^\[Error \d+\] ", "", str(error).split("Request '")[0]).strip(": ")
    name = type(error).__name__
    text = text.removeprefix(name).strip(": ")
    if known:
        return f"{known} ({name})"
    return f"{name}: {text}"[:200].rstrip(": ")


def _no_answer_error(
    config: KafkaConfig, error: Exception, resource: ResourceOperation
) -> StorageDown | StorageRefused:
    """Return why no broker answered: probe each one, then the topic."""
    found = probe_brokers(config)
    if error_of_all := _no_broker_error(config, found):
        return error_of_all
    reason = join_problems(found) or _topic_problem(config, resource.topic) or describe_error(error)
    return StorageDown(config.name, reason)


def _topic_problem(config: KafkaConfig, topic: str) -> str:
    """Return the problem of a whole topic, or empty."""
    if not topic:
        return ""
    try:
        with closing(create_client(KafkaAdminClient, config)) as admin:
            (found,) = admin.describe_topics([topic])
    except (KafkaError, OSError):
        return ""
    if found["error_code"]:
        return f"topic {topic}: {describe_error(kafka.for_code(found['error_code'])())}"
    unled = [
        partition["partition_index"]
        for partition in found["partitions"]
        if partition["leader_id"] < 0
    ]
    return f"topic {topic}: partition {unled[0]} has no leader for now" if unled else ""


def _no_broker_error(
    config: KafkaConfig, probes: Sequence[BrokerProbe]
) -> StorageDown | StorageRefused | None:
    """Return why no broker lets us in; None if one does."""
    if not all(each.problem for each in probes):
        return None
    kind = StorageRefused if any(each.is_refusal for each in probes) else StorageDown
    return kind(config.name, join_problems(probes))


def _topic_names(error: BaseException) -> str:
    """Return the topics that an error names: one, or a set."""
    argument = error.args[0] if error.args else ""
    if isinstance(argument, str):
        return "" if " " in argument or not argument else argument
    return ", ".join(sorted(map(str, argument)))
