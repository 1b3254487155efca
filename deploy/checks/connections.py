"""Try the servers that the settings name; nothing is written."""

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

from deploy.config.log_access import ALL
from deploy.config.settings import LongwatchSettings
from deploy.config.storage_locations import log_location
from storage.connection_check import ConnectionCheck
from storage.db.database import database_file, inspect_schema
from storage.db.postgres.engines import inspect_hosts
from storage.db.postgres.hosts import PostgresHostState
from storage.errors import StorageError
from storage.log.kafka.check import check_kafka
from storage.role_problems import read_role_problems


def check_connections(settings: LongwatchSettings) -> Iterator[ConnectionCheck]:
    """Yield a check of the brokers, the database, and each role that is held back."""
    logging.getLogger("kafka").setLevel(logging.CRITICAL)  # the checks contain its messages
    yield from _check_log(settings)
    yield from _check_database(settings)
    yield from _check_roles(settings.data)


def _check_log(settings: LongwatchSettings) -> Iterator[ConnectionCheck]:
    location = log_location(settings)
    if isinstance(location, Path):
        return
    try:
        yield from check_kafka(location, ALL)
    except StorageError as error:  # unusable TLS files
        yield ConnectionCheck(name="kafka", found=str(error), is_good=False)


def _check_database(settings: LongwatchSettings) -> Iterator[ConnectionCheck]:
    if settings.database is None:
        return
    url = settings.database.get_secret_value()
    try:
        schema = inspect_schema(url)
    except StorageError as error:
        yield ConnectionCheck(name="database", found=str(error), is_good=False)
        return
    found = f"it has schema {schema.revision}" if schema.revision else "it is empty"
    message = f"answers, {found}"
    if schema.revision != schema.newest_revision:
        message += f": the next start upgrades it to {schema.newest_revision}"
    yield ConnectionCheck(name="database", found=message)
    if database_file(url) is None:
        yield from _check_hosts(inspect_hosts(url))


def _check_hosts(hosts: Sequence[PostgresHostState]) -> Iterator[ConnectionCheck]:
    """Yield the role of each host of the database; exactly one has to be the primary."""
    primaries = [each for each in hosts if not (each.is_standby or each.problem)]
    for each in hosts:
        found = each.problem or ("standby" if each.is_standby else "primary")
        if each.timeline is not None:
            found += f", timeline {each.timeline.number}"
        is_good = not each.problem and len(primaries) == 1
        if len(primaries) > 1 and each in primaries:
            found += ": one of several that accept writes: stop those on older timelines"
        if not primaries and each.is_standby:
            found += ": it accepts no writes: promote it, or name the primary"
        yield ConnectionCheck(
            name=f"database host {each.host.netloc}", found=found, is_good=is_good
        )


def _check_roles(data: Path) -> Iterator[ConnectionCheck]:
    for each in read_role_problems(data):
        since = f"{each.since:%Y-%m-%d %H:%M:%SZ}"
        message = f"held back since {since}: {each.reason}"
        yield ConnectionCheck(name=f"role {each.role}", found=message, is_good=False)
