"""The configuration of a log on Kafka, as plain values."""

import re
import ssl
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from storage.errors import StorageUnfit
from storage.log.kafka.client.refusals import Refusals
from storage.log.retention import DEFAULT_RETENTION, TopicRetention
from storage.records.topics import WINDOWS

MESSAGE_OVERHEAD = 2048
"""Bytes reserved for the key, the headers and the framing of a message."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tls:
    """PEM files: the CA of the brokers (else the system's), and our own certificate."""

    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Sasl:
    """Our login; `mechanism` is PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512."""

    mechanism: str
    user: str
    password: str = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class StaticMember:
    """A static member of a group, by its name (`group.instance.id`, KIP-345).

    The group keeps its partitions while it is away for less than `session` seconds.
    """

    name: str
    session: float = 120.0

    def for_device(self, device: str) -> "StaticMember":
        """Return the static member for one device of the host."""
        return replace(self, name=to_member_name(f"{self.name}-{device}"))


def to_member_name(text: str) -> str:
    """Return text with the characters that Kafka refuses in a member name replaced."""
    return re.sub(r"[^A-Za-z0-9._-]", "-", text)[:249]


@dataclass(frozen=True, slots=True, kw_only=True)
class KafkaConfig:
    """A cluster, and the topics of one longwatch on it.

    `partitions` is the number written to in every topic; it must stay what it was when the topics
    were created. `largest` is in bytes, of a whole message; `timeout` and `session` in seconds.
    `compression` is a codec for all topics, or `auto`. `site` is part of the source of each
    CloudEvent. Without `static` a member leaves its group when it stops.
    """

    bootstrap: tuple[str, ...]
    prefix: str = "longwatch."
    partitions: int = 12
    replication: int | None = None
    largest: int = 8 * 2**20
    timeout: float = 30.0
    session: float = 8.0
    static: StaticMember | None = None
    compression: str = "auto"
    tls: Tls | None = None
    sasl: Sasl | None = None
    retention: tuple[TopicRetention, ...] = DEFAULT_RETENTION
    site: str = ""
    refusals: Refusals = field(default_factory=Refusals, compare=False, repr=False)

    @property
    def name(self) -> str:
        """Return the name for error messages."""
        return f"kafka at {','.join(self.bootstrap)}"

    @property
    def largest_value(self) -> int:
        """Return the largest size of a value, in bytes."""
        return self.largest - MESSAGE_OVERHEAD

    def compression_of(self, topic: str) -> str | None:
        """Return the codec of a topic; `auto` is none for stills, which do not shrink, else gzip.

        Every client has gzip without a plugin.
        """
        codec = self.compression
        if codec == "auto":
            codec = "none" if topic == WINDOWS else "gzip"
        return None if codec == "none" else codec


def client_options(config: KafkaConfig) -> dict[str, Any]:
    """Return the options of every kafka-python client; raises StorageUnfit for bad files."""
    protocol = ("SASL_" if config.sasl else "") + ("SSL" if config.tls else "PLAINTEXT")
    options: dict[str, Any] = {
        "bootstrap_servers": list(config.bootstrap),
        "client_id": "longwatch",
        "security_protocol": protocol,
        "request_timeout_ms": int(config.timeout * 1000),
        "bootstrap_timeout_ms": int(config.timeout * 1000),
        "reconnect_backoff_max_ms": 1000,
    }
    if config.tls is not None:
        options["ssl_context"] = _tls_context(config.tls)
    if config.sasl is not None:
        options["sasl_mechanism"] = config.sasl.mechanism
        options["sasl_plain_username"] = config.sasl.user
        options["sasl_plain_password"] = config.sasl.password
    return options


def _tls_context(tls: Tls) -> ssl.SSLContext:
    for file in (tls.ca, tls.certificate, tls.key):
        if file is not None and not file.is_file():
            raise StorageUnfit(str(file), "no such file: name a PEM file under log.kafka.tls")
    try:
        context = ssl.create_default_context(cafile=tls.ca and str(tls.ca))
        if tls.certificate is not None:
            context.load_cert_chain(tls.certificate, tls.key)
    except ssl.SSLError as error:
        reason = f"no usable certificate or key ({error.reason}): see log.kafka.tls"
        raise StorageUnfit(str(tls.certificate or tls.ca), reason) from None
    return context
