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

from alerts.dispatch.dispatcher import Dispatcher
from alerts.dispatch.grouping import NotificationPolicy, RoutePolicy
from alerts.incidents.publisher import Publisher
from alerts.notify.courier import Courier
from alerts.rules.rule import Rule
from alerts.worker import AlertsWorker
from kit.alerts.webhook_receiver import a_webhook
from storage.db import database, tables
from storage.db.alert_store import AlertStore
from storage.db.sql.upsert import dialect_insert
from storage.db.transaction import Transaction
from storage.errors import StorageDown
from storage.log.kafka.client.config import KafkaConfig
from storage.log.log import Log
from storage.log.open_log import open_log

RULE = Rule(
    name="bag-left",
    question="bag",
    above=0.8,
    below=0.5,
    for_=timedelta(seconds=16),
    keep_firing_for=timedelta(seconds=32),
    notify=("soc",),
)

OTHER_RECEIVER = "other"
"""A receiver beside the one of `RULE`."""
IMMEDIATE_POLICY = NotificationPolicy(
    default=RoutePolicy(group_wait=timedelta(), group_interval=timedelta(), rate_limit=None)
)


FAILURE_FILE = "failure"
"""The file of what a thread of alerts died of by itself, which may be killed before it ends."""


def serve(
    data: Path,
    url: str,
    disabled_protection: str = "",
    database_url: str = "",
    kafka_config: KafkaConfig | None = None,
    other_url: str = "",
) -> None:
    """Judge, route and deliver until killed; with another url, to `OTHER_RECEIVER` as well."""
    log, store = open_storage(data, disabled_protection, database_url, kafka_config)
    webhooks = [a_webhook(url), *([a_webhook(other_url, OTHER_RECEIVER)] if other_url else [])]
    rule = rule_for_both_receivers() if other_url else RULE
    publisher = Publisher(log, store)
    judging = make_judge(log, store, rule, publisher)
    loops = (judging, publisher, Dispatcher(store, IMMEDIATE_POLICY), Courier(store, webhooks))
    stop = threading.Event()

    def run(part: AlertsWorker | Publisher | Dispatcher | Courier) -> None:
        try:
            with record_failure(data):
                part.run(stop)
        finally:
            stop.set()  # whatever ends one ends the process

    with ThreadPoolExecutor() as threads:
        for future in [threads.submit(run, partition) for partition in loops]:
            future.result()


def compete(
    data: Path, disabled_protection: str = "", database_url: str = "", *, for_other: bool = False
) -> None:
    """Judge until killed, beside somebody else who does."""
    rule = rule_for_both_receivers() if for_other else RULE
    with record_failure(data):
        make_judge(*open_storage(data, disabled_protection, database_url), rule).run(
            threading.Event()
        )


def rule_for_both_receivers() -> Rule:
    """Return the rule that notifies `OTHER_RECEIVER`, too."""
    return replace(RULE, notify=(*RULE.notify, OTHER_RECEIVER))


@contextmanager
def record_failure(data: Path) -> Iterator[None]:
    """Leave in `FAILURE_FILE` what the block died of."""
    try:
        yield
    except BaseException:
        (data / FAILURE_FILE).write_text(traceback.format_exc())
        raise


def make_judge(
    log: Log, store: AlertStore, rule: Rule = RULE, publisher: Publisher | None = None
) -> AlertsWorker:
    """Return a judge that takes so few at a time that a kill falls between them and into them."""
    return AlertsWorker(
        log,
        store,
        (rule,),
        lambda seconds: None,
        publisher=publisher,
        policy=IMMEDIATE_POLICY,
        batch=2,
    )


def open_storage(
    data: Path,
    disabled_protection: str,
    database_url: str = "",
    kafka_config: KafkaConfig | None = None,
) -> tuple[Log, AlertStore]:
    if disabled_protection == "swap":
        Transaction.advance_offset = _overwrite_offset  # type: ignore[method-assign]
    url = database_url or f"sqlite:///{data / 'longwatch.db'}"
    while True:
        try:
            store = AlertStore(database.open_database(url))
            return open_log(kafka_config or data / "log.db"), store
        except StorageDown:
            time.sleep(0.1)


def _overwrite_offset(
    self: Transaction, group: str, topic: str, expected: int, offset: int
) -> None:
    row = {"reader": group, "topic": topic, "next": offset}
    writing = dialect_insert(self.connection, tables.positions).values(row)
    self.connection.execute(
        writing.on_conflict_do_update(index_elements=["reader", "topic"], set_=row)
    )
