"""Whether the servers that settings name can be used: each is tried, and nothing is written."""

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

from deploy.data import log_of
from deploy.needs import ALL
from deploy.settings import Settings
from storage.checkup import Check
from storage.database import path_of, schema_of
from storage.errors import StorageError
from storage.held_back import roles_held_back
from storage.kafka_checkup import check_kafka
from storage.postgres import look_at_hosts
from storage.postgres_hosts import HostState


def check_connections(settings: Settings) -> Iterator[Check]:
    """Yield what is found of the broker, the database and roles that are held back."""
    logging.getLogger("kafka").setLevel(logging.CRITICAL)  # what it says is in the lines
    yield from _check_log(settings)
    yield from _check_database(settings)
    yield from _check_roles(settings.data)


def _check_log(settings: Settings) -> Iterator[Check]:
    place = log_of(settings)
    if isinstance(place, Path):
        return
    try:
        yield from check_kafka(place, ALL)
    except StorageError as error:  # files of TLS that cannot be used
        yield Check(name="kafka", found=str(error), is_good=False)


def _check_database(settings: Settings) -> Iterator[Check]:
    if settings.database is None:
        return
    url = settings.database.get_secret_value()
    try:
        schema = schema_of(url)
    except StorageError as error:
        yield Check(name="database", found=str(error), is_good=False)
        return
    told = f"answers, it has schema {schema.found}" if schema.found else "answers, it is empty"
    if schema.found != schema.known:
        told += f": the next start makes it {schema.known}"
    yield Check(name="database", found=told)
    if path_of(url) is None:
        yield from _check_hosts(look_at_hosts(url))


def _check_hosts(hosts: Sequence[HostState]) -> Iterator[Check]:
    """Yield what each host of the database is: one alone has to be the primary."""
    primaries = [each for each in hosts if not (each.is_standby or each.problem)]
    for each in hosts:
        found = each.problem or ("standby" if each.is_standby else "primary")
        if each.timeline is not None:
            found += f", timeline {each.timeline.number}"
        is_good = not each.problem and len(primaries) == 1
        if len(primaries) > 1 and each in primaries:
            found += ": one of several that take writes: stop those on older timelines"
        if not primaries and each.is_standby:
            found += ": it takes no writes: promote it, or name the primary"
        yield Check(name=f"database host {each.host.text}", found=found, is_good=is_good)


def _check_roles(data: Path) -> Iterator[Check]:
    for each in roles_held_back(data):
        since = f"{each.since:%Y-%m-%d %H:%M:%SZ}"
        told = f"held back since {since}: {each.reason}"
        yield Check(name=f"role {each.role}", found=told, is_good=False)
