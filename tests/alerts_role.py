"""Judge and courier in a process that may be killed; imports little, to begin soon."""

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

from alerts_fixtures import SECRET

from alerts.courier import Courier
from alerts.rules import Rule
from alerts.webhook import Webhook
from alerts.worker import AlertsWorker
from storage.database import open_database
from storage.incidents import IncidentStore
from storage.log import SqliteLog

RULE = Rule(
    name="bag-left",
    question="bag",
    above=0.8,
    below=0.5,
    for_=timedelta(seconds=16),
    keep_firing_for=timedelta(seconds=32),
    notify=("soc",),
)


def serve(data: Path, url: str) -> None:
    """Judge and deliver until killed."""
    store = IncidentStore(open_database(f"sqlite:///{data / 'longwatch.db'}"))
    log = SqliteLog(data / "log.db")
    webhook = Webhook(name="soc", url=url, secret=SECRET, allow_private=True)
    stop = threading.Event()
    with ThreadPoolExecutor() as threads:
        posting = threads.submit(Courier(store, [webhook]).run, stop)
        AlertsWorker(log, store, (RULE,), promise=lambda seconds: None).run(stop)
    posting.result()
