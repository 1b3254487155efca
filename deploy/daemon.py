"""Inside a process: how it starts, what it does in its role, and how it ends.

Every import that costs something stands inside the role that needs it: a camera's process
never loads torch.
"""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from ctypes import c_double
from dataclasses import dataclass, field
from multiprocessing import connection, parent_process
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from deploy import logs
from deploy.data import LOG_FILE, database_url

if TYPE_CHECKING:
    from alerts.rules import Rule
    from alerts.webhook import Webhook
    from analyzer.plan import MemoryPlan, WindowShape
    from analyzer.questions import Question
    from ingest.source import Camera

LOADING = 600.0
"""Seconds that it may take to load a model."""
FAREWELL = 5.0
"""Seconds that a process may go on after its supervisor has died."""

logger = structlog.get_logger()

Promise = Callable[[float], None]
"""`promise(seconds)` says that the process will be heard of again within so many seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Role:
    """What one process does: `work(**arguments, stop=..., promise=...)`, all of it picklable."""

    name: str
    work: Callable[..., None]
    arguments: Mapping[str, object] = field(repr=False)
    logging: logs.Logging


def enter(role: Role, deadline: c_double) -> None:
    """Be the process of a role until SIGTERM, SIGINT, a crash or the supervisor's death."""
    stop = stop_on_signals()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM, signal.SIGINT})
    threading.Thread(target=_follow_parent, args=(stop,), daemon=True).start()
    logs.configure(role.logging, role.name)

    def promise(seconds: float) -> None:
        deadline.value = time.monotonic() + seconds

    try:
        role.work(**role.arguments, stop=stop, promise=promise)
    except Exception:
        logger.critical("process crashed", exc_info=True)
        sys.exit(1)


def stop_on_signals() -> threading.Event:
    """Return an event that SIGTERM and SIGINT set."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    return stop


def watch_camera(*, camera: "Camera", data: Path, stop: threading.Event, promise: Promise) -> None:
    """Cut one camera into windows."""
    limit_threads(1)
    from ingest.worker import CameraWorker
    from storage.log import SqliteLog

    CameraWorker(camera, SqliteLog(data / LOG_FILE), promise).run(stop)


def analyze(
    *,
    model: str,
    revision: str | None,
    device: str,
    dtype: str,
    plan: "MemoryPlan",
    shapes: Sequence["WindowShape"],
    questions: Sequence["Question"],
    data: Path,
    stop: threading.Event,
    promise: Promise,
) -> None:
    """Answer the questions about every camera's windows."""
    promise(LOADING)
    limit_threads(os.cpu_count() or 1)
    from analyzer.errors import ModelUnusable
    from analyzer.plan import largest_budget
    from analyzer.videoxl2.checkpoint import load_model
    from analyzer.watcher import Watcher
    from analyzer.worker import AnalyzerWorker
    from storage.log import SqliteLog

    try:
        speaker = load_model(model, device, dtype, revision)
    except ModelUnusable as error:
        logger.critical(str(error))
        sys.exit(1)
    logger.info("model loaded", model=speaker.name)
    speaker.corrected = plan.corrected
    budget = largest_budget(plan, speaker.blank, shapes)
    watcher = Watcher(speaker, questions, plan, budget)
    AnalyzerWorker(SqliteLog(data / LOG_FILE), watcher, promise).run(stop)


def alert(
    *,
    rules: Sequence["Rule"],
    receivers: Sequence["Webhook"],
    data: Path,
    stop: threading.Event,
    promise: Promise,
) -> None:
    """Judge the findings, deliver the incidents, and keep the log small."""
    from alerts.courier import Courier
    from alerts.worker import AlertsWorker
    from deploy.housekeeping import housekeeping
    from storage.database import open_database
    from storage.incidents import IncidentStore
    from storage.log import SqliteLog

    log = SqliteLog(data / LOG_FILE)
    store = IncidentStore(open_database(database_url(data)))
    with housekeeping(log), ThreadPoolExecutor(1, "courier") as pool:
        posting = pool.submit(Courier(store, receivers).run, stop)
        posting.add_done_callback(lambda _: stop.set())
        try:
            AlertsWorker(log, store, rules, promise).run(stop)
        finally:
            stop.set()
    posting.result()


def limit_threads(number: int) -> None:
    """Give the numeric libraries, loaded after this, so many threads."""
    os.environ.setdefault("OMP_NUM_THREADS", str(number))
    # Threads that spin while they wait made a busy machine 15 times slower.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")


def _follow_parent(stop: threading.Event) -> None:
    """End this process when the one that started it is gone."""
    parent = parent_process()
    if parent is None:
        raise RuntimeError("a role is entered in a process of its own")
    connection.wait([parent.sentinel])
    stop.set()
    last_resort = threading.Timer(FAREWELL, os._exit, (1,))
    last_resort.daemon = True
    last_resort.start()
