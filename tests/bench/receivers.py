"""How long a healthy receiver waits while fifty dead ones are tried again and again.

    .venv/bin/python tests/bench/receivers.py

Prints p50 and p99 from the commit of a delivery to its arrival, without and with the dead ones.
"""

import socket
import statistics
import sys
import tempfile
import threading
import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from uuid import UUID, uuid4

import structlog

# Before this folder, in which a file would stand for the package `alerts`.
sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[2]))

from alerts.notify.courier import Courier
from kit.alerts.webhook_receiver import a_webhook, run_receiver
from kit.storage.fixtures import a_delivery, an_incident, by_rule
from storage.db.alert_store import AlertStore
from storage.db.database import open_database

DEAD, EACH, POSTS, EVERY = 50, 20, 200, 0.1


def queue(store: AlertStore, receiver: str, count: int) -> list[UUID]:
    """Write deliveries to a receiver; return their ids."""
    ids = [uuid4() for _ in range(count)]
    with store.transaction() as transaction:
        for id in ids:
            transaction.save_revisions([by_rule(replace(an_incident(), id=id, camera=str(id)))])
            delivery = replace(a_delivery(1, receiver), id=id, group_id=id)
            transaction.deliveries.add(delivery, b"{}", {id: 1})
    return ids


def latencies(dead: int) -> list[float]:
    """Return the seconds from commit to arrival of every delivery to the healthy receiver."""
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        store = AlertStore(open_database(f"sqlite:///{folder}/longwatch.db"))
        healthy = stack.enter_context(run_receiver())
        hanging = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=1000))
        webhooks = [a_webhook(healthy.url, "healthy")]
        for n in range(dead):
            port = hanging.getsockname()[1] if n % 2 else 9
            webhooks.append(a_webhook(f"http://127.0.0.1:{port}/", f"dead-{n}"))
            queue(store, f"dead-{n}", EACH)
        stop = threading.Event()
        thread = threading.Thread(target=Courier(store, webhooks).run, args=(stop,))
        thread.start()
        sent: dict[str, float] = {}
        arrived: dict[str, float] = {}
        for _ in range(POSTS):
            (id,) = queue(store, "healthy", 1)
            sent[str(id)] = time.monotonic()
            time.sleep(EVERY)
            _note(healthy.ids(), arrived)
        while len(arrived) < POSTS:
            time.sleep(0.01)
            _note(healthy.ids(), arrived)
        stop.set()
        came = {post.headers["webhook-id"]: post.at for post in healthy.posts}
        thread.join()
    return [came[id] - at for id, at in sent.items()]


def _note(ids: list[str], arrived: dict[str, float]) -> None:
    for id in ids:
        arrived.setdefault(id, time.monotonic())


def main() -> None:
    """Print the figures."""
    structlog.configure(processors=[], logger_factory=structlog.ReturnLoggerFactory())
    for dead in (0, DEAD):
        cuts = statistics.quantiles(latencies(dead), n=100)
        p50, p99 = cuts[49], cuts[98]
        print(f"{dead:3} dead receivers: p50 {p50:.2f} s, p99 {p99:.2f} s ({POSTS} posts)")


if __name__ == "__main__":
    main()
