"""Where the settings keep log and database."""

import socket
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from urllib.parse import unquote, urlsplit

from pydantic import SecretStr

from deploy.config.data_dir import LOG_FILE, StorageLocations, database_url
from deploy.config.log_space import log_retention
from deploy.config.partial_settings import DatabaseSubset, LogSubset
from deploy.config.settings import LongwatchSettings
from storage.log.kafka.client.config import KafkaConfig, Sasl, StaticMember, Tls, to_member_name
from storage.log.retention import DEFAULT_RETENTION, TopicRetention
from storage.settings import KafkaSettings, SaslSettings, StaticMembershipSettings


def storage_locations(settings: LongwatchSettings) -> StorageLocations:
    """Return the locations that settings name."""
    log, database = log_location(settings), database_location(settings)
    return StorageLocations(data=settings.data, log=log, database=database)


def log_location(settings: LongwatchSettings | LogSubset) -> Path | KafkaConfig:
    """Return the log that settings name."""
    kafka = settings.log.kafka
    if kafka is None:
        return settings.data / LOG_FILE
    return build_kafka_config(kafka, settings.site, log_retention(settings.log, settings.data))


def database_location(settings: LongwatchSettings | DatabaseSubset) -> str:
    """Return the url of the database that settings name."""
    url = settings.database
    return url.get_secret_value() if url else database_url(settings.data)


def build_kafka_config(
    settings: KafkaSettings, site: str = "", retention: Sequence[TopicRetention] = DEFAULT_RETENTION
) -> KafkaConfig:
    """Return a log on Kafka, its retention, and the site that its events name."""
    tls, sasl, static = settings.tls, settings.sasl, settings.static
    return KafkaConfig(
        bootstrap=tuple(settings.bootstrap),
        prefix=settings.prefix,
        partitions=settings.partitions,
        replication=settings.replication,
        compression=settings.compression,
        timeout=settings.timeout.total_seconds(),
        session=settings.session.total_seconds(),
        static=None if static is None else _build_static_member(static),
        tls=Tls(ca=tls.ca, certificate=tls.certificate, key=tls.key) if tls else None,
        sasl=None if sasl is None else _build_sasl(sasl),
        retention=tuple(retention),
        site=site,
    )


def _build_sasl(settings: SaslSettings) -> Sasl:
    password = settings.password.get_secret_value()
    return Sasl(mechanism=settings.mechanism, user=settings.user, password=password)


def _build_static_member(settings: StaticMembershipSettings) -> StaticMember:
    name = settings.name or to_member_name(socket.gethostname())
    return StaticMember(name=name, session=settings.session.total_seconds())


def analyzer_locations(settings: LongwatchSettings, device: str) -> StorageLocations:
    """Return the locations of the analyzer on a device, which its name in the group contains."""
    locations = storage_locations(settings)
    log = locations.log
    if not isinstance(log, KafkaConfig) or log.static is None:
        return locations
    return replace(locations, log=replace(log, static=log.static.for_device(device)))


def storage_secrets(settings: LongwatchSettings) -> list[SecretStr]:
    """Return the passwords of the log and the database, and the url of the database."""
    found: list[SecretStr] = []
    if settings.log.kafka and settings.log.kafka.sasl:
        found.append(settings.log.kafka.sasl.password)
    if settings.database is not None:
        found.append(settings.database)
        password = urlsplit(settings.database.get_secret_value()).password
        found += [SecretStr(text) for text in {password, password and unquote(password)} if text]
    return found
