"""Judge, router and courier in a process that may be killed; imports little, to begin soon.

A protection can be taken out, to see what it is for: `swap` is the comparison of where a reader
is with where it was expected.
"""

import threading
import time
import traceback
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

from alerts_fixtures import a_webhook

from alerts.courier import Courier
from alerts.publisher import Publisher
from alerts.router import Router
from alerts.routing import Route, Routing
from alerts.rules import Rule
from alerts.worker import AlertsWorker
from storage import database, tables
from storage.errors import StorageDown
from storage.incidents import IncidentStore
from storage.insert import insert
from storage.kafka_place import KafkaPlace
from storage.ledger import Ledger
from storage.log import Log
from storage.opening import open_log

RULE = Rule(
    name="bag-left",
    question="bag",
    above=0.8,
    below=0.5,
    for_=timedelta(seconds=16),
    keep_firing_for=timedelta(seconds=32),
    notify=("soc",),
)

OTHER = "other"
"""A receiver beside the one of `RULE`."""
ROUTING = Routing(
    default=Route(group_wait=timedelta(), group_interval=timedelta(), rate_limit=None)
)


FAILURE = "failure"
"""The file of what a thread of alerts died of by itself, which may be killed before it ends."""


def serve(
    data: Path,
    url: str,
    without: str = "",
    database_url: str = "",
    place: KafkaPlace | None = None,
    other_url: str = "",
) -> None:
    """Judge, route and deliver until killed; with another url, to `OTHER` as well."""
    log, store = opened(data, without, database_url, place)
    webhooks = [a_webhook(url), *([a_webhook(other_url, OTHER)] if other_url else [])]
    rule = for_both() if other_url else RULE
    publisher = Publisher(log, store)
    judging = judge(log, store, rule, publisher)
    parts = (judging, publisher, Router(store, ROUTING), Courier(store, webhooks))
    stop = threading.Event()

    def run(part: AlertsWorker | Publisher | Router | Courier) -> None:
        try:
            with noted_failure(data):
                part.run(stop)
        finally:
            stop.set()  # whatever ends one ends the process

    with ThreadPoolExecutor() as threads:
        for ran in [threads.submit(run, part) for part in parts]:
            ran.result()


def compete(
    data: Path, without: str = "", database_url: str = "", *, for_other: bool = False
) -> None:
    """Judge until killed, beside somebody else who does."""
    rule = for_both() if for_other else RULE
    with noted_failure(data):
        judge(*opened(data, without, database_url), rule).run(threading.Event())


def for_both() -> Rule:
    """Return the rule that notifies `OTHER`, too."""
    return replace(RULE, notify=(*RULE.notify, OTHER))


@contextmanager
def noted_failure(data: Path) -> Iterator[None]:
    """Leave in `FAILURE` what the block died of."""
    try:
        yield
    except BaseException:
        (data / FAILURE).write_text(traceback.format_exc())
        raise


def judge(
    log: Log, store: IncidentStore, rule: Rule = RULE, publisher: Publisher | None = None
) -> AlertsWorker:
    """Return a judge that takes so few at a time that a kill falls between them and into them."""
    return AlertsWorker(
        log, store, (rule,), lambda seconds: None, publisher=publisher, routing=ROUTING, batch=2
    )


def opened(
    data: Path, without: str, database_url: str = "", place: KafkaPlace | None = None
) -> tuple[Log, IncidentStore]:
    if without == "swap":
        Ledger.advance = _overwrite  # type: ignore[method-assign]
    url = database_url or f"sqlite:///{data / 'longwatch.db'}"
    while True:
        try:
            store = IncidentStore(database.open_database(url))
            return open_log(place or data / "log.db"), store
        except StorageDown:
            time.sleep(0.1)


def _overwrite(ledger: Ledger, reader: str, topic: str, expected: int, position: int) -> None:
    row = {"reader": reader, "topic": topic, "next": position}
    writing = insert(ledger.connection, tables.positions).values(row)
    ledger.connection.execute(
        writing.on_conflict_do_update(index_elements=["reader", "topic"], set_=row)
    )
