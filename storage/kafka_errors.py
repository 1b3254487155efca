"""What goes wrong with a broker, in words of storage.

What a broker refuses is StorageRefused: who runs waits for it. What it refuses at the start is
StorageUnfit (`at_start`).
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager

import kafka.errors as kafka
from kafka import KafkaAdminClient
from kafka.errors import AuthorizationError, KafkaError

from storage.errors import StorageDown, StorageRefused, StorageUnfit
from storage.kafka_client import connected
from storage.kafka_place import KafkaPlace
from storage.kafka_probe import Greeting, ask_brokers, problems_of
from storage.refusals import Use

_ANY = Use()
_FULL = kafka.QuotaViolationError, kafka.ThrottlingQuotaExceededError
_SILENT = (
    OSError,
    kafka.Cancelled,
    kafka.KafkaConnectionError,
    kafka.KafkaTimeoutError,
    kafka.MetadataEmptyBrokerList,
    kafka.NodeNotReadyError,
    kafka.RequestTimedOutError,
)
"""What kafka-python reports of a broker that says nothing, or whose words it dropped."""
_WORDS: dict[type[KafkaError], str] = {
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
    **dict.fromkeys(_FULL, "a quota of the broker slows us down"),
}
_WORDS[kafka.NotEnoughReplicasAfterAppendError] = _WORDS[kafka.NotEnoughReplicasError]
_WORDS[kafka.UnknownTopicIdError] = _WORDS[kafka.UnknownTopicOrPartitionError]
_NEW_TOPIC = re.compile(r"CreatableTopicResult\(.*?name='([^']+)'.*?error_code=29")
_GROUP = re.compile(r"GROUP/([^\s:]+)")


@contextmanager
def named(
    place: KafkaPlace, *, topic: str = "", right: str = "", group: str = ""
) -> Iterator[None]:
    """Turn errors of kafka-python into StorageDown and StorageRefused.

    `topic` and `group`, as they are called on the broker, and the `right` that is used (READ,
    WRITE, ...) are named where the error does not tell them. With any of them, what was refused
    is not asked for again for half a minute.
    """
    use = Use(topic, right, group)
    if reason := place.refusals.waiting(use):
        raise StorageRefused(place.name, reason)
    try:
        yield
    except (KafkaError, OSError) as error:
        told = error_of(place, error, use)
        if isinstance(told, StorageRefused):
            place.refusals.note(use, told.reason)
        raise told from None
    if use != _ANY:  # else it may be something else that is allowed
        place.refusals.forget(use)


@contextmanager
def at_start() -> Iterator[None]:
    """Turn what is refused into StorageUnfit: at a start nobody waits for it."""
    try:
        yield
    except StorageRefused as error:
        raise StorageUnfit(error.place, error.reason) from None


def check_brokers(place: KafkaPlace) -> None:
    """Raise StorageDown or StorageRefused, with what each broker says, where none lets us in.

    It takes a few round trips; kafka-python asks again and again until it is out of time.
    """
    if problem := _nobody(place, ask_brokers(place)):
        raise problem


def error_of(place: KafkaPlace, error: Exception, use: Use = _ANY) -> StorageDown | StorageRefused:
    """Return what `named` raises; the reason of a KafkaTimeoutError may be chained as its cause."""
    if refusal := refusal_of(place, error, use):
        return StorageRefused(place.name, refusal)
    where = f"topic {use.topic}: " if use.topic else ""
    if isinstance(error.__cause__, KafkaError):
        return StorageDown(place.name, where + words_of(error.__cause__))
    if isinstance(error, _SILENT):
        return _silence(place, error, use)
    return StorageDown(place.name, where + words_of(error))


def refusal_of(place: KafkaPlace, error: BaseException, use: Use = _ANY) -> str:
    """Return what is refused and what to do; nothing for an error that is no refusal."""
    if isinstance(error, kafka.InvalidReplicationFactorError):
        return "fewer brokers than log.kafka.replication asks for: lower it"
    if isinstance(error, kafka.MessageSizeTooLargeError | kafka.RecordListTooLargeError):
        return f"it takes no message of {place.largest} bytes: raise its message.max.bytes"
    if isinstance(error, kafka.SaslAuthenticationFailedError | kafka.UnsupportedSaslMechanismError):
        return problems_of(ask_brokers(place)) or f"{words_of(error)}: see log.kafka.sasl"
    # kafka-python (3.0.12) wraps what an idempotent producer is refused at its start.
    is_wrapped = kafka.ClusterAuthorizationFailedError.__name__ in str(error)
    if is_wrapped or isinstance(error, AuthorizationError):
        return missing_right(place, *_right_of(error, use))
    return ""


def _right_of(error: BaseException, use: Use) -> tuple[str, str, str]:
    """Return the kind and the name of what takes a right, and the right."""
    if new := _NEW_TOPIC.search(str(error)):
        return "topic", new[1], "CREATE"
    if isinstance(error, kafka.TopicAuthorizationFailedError):
        return "topic", _names(error) or use.topic, use.right or "READ or WRITE"
    if isinstance(error, kafka.GroupAuthorizationFailedError):
        found = _GROUP.search(str(error))
        return "group", found[1] if found else _names(error) or use.group, "READ"
    if isinstance(error, kafka.TransactionalIdAuthorizationFailedError):
        return "transactional-id", _names(error), "WRITE"
    if use.topic and use.right == "WRITE":  # an idempotent producer needs no more (KIP-679)
        return "topic", use.topic, use.right
    return "cluster", "", use.right or "IDEMPOTENT_WRITE"


def missing_right(
    place: KafkaPlace, kind: str, name: str, right: str, *, for_all: bool = False
) -> str:
    """Return that a right is missing, and the command that gives it, perhaps `for_all` topics."""
    who = f"User:{place.sasl.user}" if place.sasl else "User:NAME"
    what = f"--{kind} {name}".rstrip()
    if for_all:
        prefix = place.prefix
        what = f"--topic {prefix} --resource-pattern-type prefixed" if prefix else "--topic '*'"
    operation = " --operation ".join(right.split(" or "))
    give = (
        f"kafka-acls.sh --bootstrap-server {place.bootstrap[0]} --add --allow-principal {who}"
        f" --operation {operation} {what}"
    )
    return f"{kind} {name}".rstrip() + f": the right {right} is missing: {give}"


def words_of(error: BaseException) -> str:
    """Return an error of kafka-python in a few words; what it adds repeats the whole request."""
    if isinstance(error, kafka.InvalidRecordError) and "imestamp" in str(error):
        error = kafka.InvalidTimestampError()  # brokers say the one or the other
    known = _WORDS.get(type(error))
    said = re.sub(r"^\[Error \d+\] ", "", str(error).split("Request '")[0]).strip(": ")
    name = type(error).__name__
    said = said.removeprefix(name).strip(": ")
    if known:
        return f"{known} ({name})"
    return f"{name}: {said}"[:200].rstrip(": ")


def _silence(place: KafkaPlace, error: Exception, use: Use) -> StorageDown | StorageRefused:
    """Ask each broker why it is silent, and where all are well, after the topic."""
    found = ask_brokers(place)
    if nobody := _nobody(place, found):
        return nobody
    reason = problems_of(found) or _trouble_of(place, use.topic) or words_of(error)
    return StorageDown(place.name, reason)


def _trouble_of(place: KafkaPlace, topic: str) -> str:
    """Return what is wrong with a topic as a whole, if anything is."""
    if not topic:
        return ""
    try:
        with closing(connected(KafkaAdminClient, place)) as admin:
            (found,) = admin.describe_topics([topic])
    except (KafkaError, OSError):
        return ""
    if found["error_code"]:
        return f"topic {topic}: {words_of(kafka.for_code(found['error_code'])())}"
    unled = [part["partition_index"] for part in found["partitions"] if part["leader_id"] < 0]
    return f"topic {topic}: partition {unled[0]} has no leader for now" if unled else ""


def _nobody(
    place: KafkaPlace, greetings: Sequence[Greeting]
) -> StorageDown | StorageRefused | None:
    """Return why nobody lets us in; None where anybody does."""
    if not all(each.problem for each in greetings):
        return None
    kind = StorageRefused if any(each.is_refusal for each in greetings) else StorageDown
    return kind(place.name, problems_of(greetings))


def _names(error: BaseException) -> str:
    """Return the topics that an error holds: a name, or a set of names."""
    held = error.args[0] if error.args else ""
    if isinstance(held, str):
        return "" if " " in held or not held else held
    return ", ".join(sorted(map(str, held)))
