"""A storm: how long until every incident is in a message, and what waiting costs meanwhile.

    python tests/bench/storm.py [--incidents 5000] [--idle 30] [--empty]

Incidents of a thousand cameras open at once; the receiver is a real webhook, its rate 60/h, the
database a file. Time is virtual: the clock that router and courier are given moves on by a second
at a time while there is nothing to do. Then, with no token left and as many incidents waiting
anew, router and courier run as they do in production for some real seconds, and the CPU time of
this process is what they took. `--empty` begins without a token.
"""

import argparse
import json
import sys
import tempfile
import threading
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import structlog

# Before this folder, in which a file would stand for the package `alerts`.
sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[2]))

from alerts.dispatch.dispatcher import Dispatcher
from alerts.dispatch.grouping import NotificationPolicy
from alerts.notify.courier import Courier
from kit.alerts.routing import an_open_incident
from kit.alerts.webhook_receiver import RecordingReceiver, a_webhook, run_receiver
from kit.storage.fixtures import by_rule
from storage.db.alert_store import AlertStore
from storage.db.database import open_database
from storage.records.notifications import ChangeKind, TokenBucket
from storage.records.records import Incident

ROUTING = NotificationPolicy()
CAMERAS, SEVERITIES = 1000, ("low", "medium", "high", "critical")
SECOND = timedelta(seconds=1)
LIMIT = timedelta(hours=100)


def open_all(store: AlertStore, count: int, now: datetime, kind: str) -> list[Incident]:
    """Open incidents at once, each in a group of its own; one in a hundred is critical."""
    incidents = [
        replace(
            an_open_incident(
                number, f"camera-{number % CAMERAS:03}", f"{kind}-{number // CAMERAS}"
            ),
            severity="critical" if number % 100 == 0 else SEVERITIES[number % 3],
            opened_at=now,
            first_seen_at=now,
            last_seen_at=now,
        )
        for number in range(count)
    ]
    with store.transaction() as transaction:
        transaction.save_revisions([by_rule(each) for each in incidents])
        for each in incidents:
            transaction.notifications.enqueue(
                each, ChangeKind.OPENED, ROUTING.group_labels(each, ["soc"])
            )
    return incidents


def spend_all_tokens(store: AlertStore, now: datetime) -> None:
    """Take all tokens."""
    with store.transaction() as transaction:
        transaction.notifications.save_bucket("soc", TokenBucket(tokens=0.0, at=now))


def record_messages(receiver: RecordingReceiver, seen: dict[str, str], at: int) -> None:
    """Note which incidents came, and with what."""
    for post in receiver.posts[at:]:
        body = json.loads(post.body)
        for each in body["data"]["incidents"]:
            seen.setdefault(each["id"], body["type"])


def storm(store: AlertStore, receiver: RecordingReceiver, count: int) -> None:
    """Print how long it takes until each incident came."""
    began = datetime.now(UTC)
    incidents = open_all(store, count, began, "bag-left")
    critical = {str(each.id) for each in incidents if each.severity == "critical"}
    dispatcher, courier = Dispatcher(store, ROUTING), Courier(store, [a_webhook(receiver.url)])
    seen: dict[str, str] = {}
    now, cpu, last = began, time.process_time(), 0.0
    first_critical: timedelta | None = None
    while len(seen) < count and now - began < LIMIT:
        at = len(receiver.posts)
        clock = time.perf_counter()
        dispatcher.run_once(now)
        last = max(last, time.perf_counter() - clock)
        while courier.run_once(now):
            pass
        record_messages(receiver, seen, at)
        if first_critical is None and critical <= seen.keys():
            first_critical = now - began
        now += SECOND
    with store.transaction() as transaction:
        bucket = transaction.notifications.bucket("soc")
    messages = {(each.group_id, each.number) for each in store.deliveries()}
    digests = sum(kind == "incidents.digest" for kind in seen.values())
    print(f"{count} incidents: {(now - began).total_seconds() / 60:.1f} minutes of virtual time")
    print(f"  all {len(critical)} critical ones after {first_critical}")
    print(f"  {len(messages)} messages, {len(receiver.posts)} posts, {digests} told in digests")
    print(f"  bucket {bucket and round(bucket.tokens, 2)}, CPU {time.process_time() - cpu:.1f} s")
    print(f"  longest look of the router {last:.2f} s")


def idle(store: AlertStore, receiver: RecordingReceiver, count: int, seconds: float) -> None:
    """Print the CPU share of router and courier while incidents wait and there is no token."""
    now = datetime.now(UTC)
    spend_all_tokens(store, now + timedelta(hours=1))  # it fills after the run
    open_all(store, count, now, "loiter")
    dispatcher, courier = Dispatcher(store, ROUTING), Courier(store, [a_webhook(receiver.url)])
    stop = threading.Event()
    threads = [threading.Thread(target=each.run, args=(stop,)) for each in (dispatcher, courier)]
    for thread in threads:
        thread.start()
    time.sleep(20)  # the critical ones have borrowed their token
    at, cpu, wall = len(receiver.posts), time.process_time(), time.perf_counter()
    time.sleep(seconds)
    used, took = time.process_time() - cpu, time.perf_counter() - wall
    stop.set()
    for thread in threads:
        thread.join()
    posts = len(receiver.posts) - at
    print(f"no token, {count} incidents wait: {100 * used / took:.1f}% of a core in {took:.0f} s")
    print(f"  {posts} posts meanwhile")


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--incidents", type=int, default=5000)
    parser.add_argument("--idle", type=float, default=30.0)
    parser.add_argument("--empty", action="store_true")
    options = parser.parse_args()
    structlog.configure(processors=[], logger_factory=structlog.ReturnLoggerFactory())
    with tempfile.TemporaryDirectory() as folder, run_receiver() as receiver:
        engine = open_database(f"sqlite:///{folder}/longwatch.db")
        store = AlertStore(engine)
        if options.empty:
            spend_all_tokens(store, datetime.now(UTC))
        storm(store, receiver, options.incidents)
        if options.idle:
            idle(store, receiver, options.incidents, options.idle)
        engine.dispose()


if __name__ == "__main__":
    main()
