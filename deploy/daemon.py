"""Inside a process: how it starts, what it does in its role, and how it ends.

Every import that costs something stands inside the role that needs it: a camera's process
never loads torch.
"""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from ctypes import Array, c_char, c_double
from dataclasses import dataclass, field, replace
from datetime import timedelta
from multiprocessing import connection, parent_process
from typing import TYPE_CHECKING

import structlog

from deploy import logs
from deploy.data import PRIVATE, Places
from deploy.errors import CannotRun
from deploy.needs import ANALYZE, INGEST
from deploy.refused import refusals_shown
from storage.errors import LeaseLost, StorageBlocked, StorageUnfit

if TYPE_CHECKING:
    from alerts.heartbeat import Heartbeat
    from alerts.receivers import Receiver
    from alerts.retention import KeepFor
    from alerts.routing import Routing
    from alerts.rules import Rule
    from alerts.tickets import Describer
    from analyzer.plan import MemoryPlan, WindowShape
    from analyzer.questions import Question
    from analyzer.site import Site
    from analyzer.videoxl2.speaker import Speaker
    from analyzer.watcher import Watcher
    from ingest.camera import Camera
    from storage.retention import Retention as LogRetention

LOADING = 600.0
"""Seconds that it may take to load a model."""
UNFIT = 2
"""The exit code of a process that would end the same way if it were started again at once."""
LONGEST_REASON = 500
"""Bytes of why it cannot run."""
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
    is_forked: bool = False
    """Whether its process shares the modules that all cameras load (`shared_modules`)."""


def enter(role: Role, deadline: c_double, reason: Array[c_char]) -> None:
    """Be the process of a role until SIGTERM, SIGINT, a crash or the supervisor's death.

    One that cannot run as it is configured leaves why in `reason` and ends with UNFIT.
    """
    os.umask(PRIVATE)
    stop = stop_on_signals()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM, signal.SIGINT})
    threading.Thread(target=_follow_parent, args=(stop,), daemon=True).start()
    logs.configure(role.logging, role.name)

    def promise(seconds: float) -> None:
        deadline.value = time.monotonic() + seconds

    places = role.arguments.get("places")
    try:
        with refusals_shown(role.name, places if isinstance(places, Places) else None):
            role.work(**role.arguments, stop=stop, promise=promise)
    except (CannotRun, StorageUnfit) as error:
        told = logs.Redact(role.logging.secrets).clean(error)
        reason.value = told.encode()[:LONGEST_REASON]
        logger.critical(told)
        sys.exit(UNFIT)
    except (StorageBlocked, LeaseLost) as error:
        logger.critical(str(error))
        sys.exit(1)
    except Exception:
        logger.critical("process crashed", exc_info=True)
        sys.exit(1)


def stop_on_signals() -> threading.Event:
    """Return an event that SIGTERM and SIGINT set."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    return stop


def watch_camera(
    *, camera: "Camera", places: Places, stop: threading.Event, promise: Promise
) -> None:
    """Cut one camera into windows."""
    limit_threads(1)
    from deploy.opening import when_it_answers
    from ingest.worker import CameraWorker
    from storage.opening import open_log

    log = when_it_answers(lambda: open_log(places.log, needs=INGEST), stop, promise)
    CameraWorker(camera, log, promise).run(stop)


def analyze(
    *,
    model: str,
    revision: str | None,
    device: str,
    dtype: str,
    plan: "MemoryPlan",
    shapes: Sequence["WindowShape"],
    questions: Sequence["Question"],
    site: "Site",
    clock_tolerance: timedelta,
    places: Places,
    stop: threading.Event,
    promise: Promise,
) -> None:
    """Answer the questions about every camera's windows."""
    promise(LOADING)
    limit_threads(os.cpu_count() or 1)
    # Memories of ever new lengths would leave gaps in a card's memory.
    os.environ.setdefault("PYTORCH_ALLOC_CONF", "expandable_segments:True")
    from analyzer.errors import DeviceLost, ModelUnusable
    from analyzer.plan import arena_plan, slots
    from analyzer.videoxl2.checkpoint import load_model
    from analyzer.worker import AnalyzerWorker
    from deploy.opening import when_it_answers
    from storage.opening import open_log

    log = when_it_answers(lambda: open_log(places.log, needs=ANALYZE), stop, promise)
    promise(LOADING)
    try:
        speaker = load_model(model, device, dtype, revision)
        speaker.corrected = plan.corrected
        if speaker.model.device.type == "cuda":
            every = slots(plan, site.cameras)
            speaker.use_arena(arena_plan(plan, speaker.blank, shapes, every))
            _admit(speaker, _on(device, site))
    except ModelUnusable as error:
        logger.critical(str(error))
        sys.exit(1)
    logger.info("model loaded", model=speaker.name)
    promise(LOADING)
    watcher = _watcher(speaker, questions, plan, shapes, site.cameras)
    worker = when_it_answers(
        lambda: AnalyzerWorker(log, watcher, promise, tolerance=clock_tolerance), stop, promise
    )
    try:
        worker.run(stop)
    except DeviceLost as error:
        logger.critical(str(error))
        sys.exit(1)


def _watcher(
    speaker: "Speaker",
    questions: Sequence["Question"],
    plan: "MemoryPlan",
    shapes: Sequence["WindowShape"],
    cameras: int,
) -> "Watcher":
    """Return what remembers and answers, with room on the host for what all memories let wait."""
    from analyzer.plan import largest_budget
    from analyzer.videoxl2.slab import slab_for
    from analyzer.watcher import Watcher

    budget = largest_budget(plan, speaker.blank, shapes)
    # A chunk comes before the one that it takes the place of goes.
    chunks = [speaker.blank(shape.stills, plan.epoch + shape.length) for shape in shapes]
    spare = max(chunk.nbytes + tokens for chunk, tokens in chunks)
    waiting = cameras * (budget.focus + budget.tokens)
    slab = slab_for(speaker.model.device, waiting + spare)
    return Watcher(speaker, questions, plan, budget, slab)


def _on(device: str, site: "Site") -> "Site":
    """Return a site whose model runs on one device of those that are set."""
    return replace(site, model=site.model.model_copy(update={"device": device}))


def _admit(speaker: "Speaker", site: "Site") -> None:
    """Warm a model up on its card; raise CannotRun where the cameras do not fit then."""
    from analyzer.capacity import Capacity
    from analyzer.plan import AT_ONCE
    from analyzer.site import plan_of
    from analyzer.videoxl2.warmup import Workload, warm_up
    from deploy.shortage import shortage

    workload = Workload(
        plan=plan_of(site.memory),
        shapes=site.shapes,
        asks=site.asks,
        reaches=site.reaches,
        lanes=min(AT_ONCE, site.cameras),
    )
    peak = warm_up(speaker, workload)
    arena = speaker.streams.arena.nbytes if speaker.streams else 0
    problem = shortage(Capacity(site).measured(peak, arena))
    if problem:
        key, told = problem
        raise CannotRun(f"{'.'.join(map(str, key))}: {told}")


def alert(
    *,
    rules: Sequence["Rule"],
    receivers: Sequence["Receiver"],
    routing: "Routing",
    heartbeat: "Heartbeat | None",
    describer: "Describer",
    cameras: Collection[str],
    keep: "KeepFor",
    keep_log: "Sequence[LogRetention]",
    clock_tolerance: timedelta,
    places: Places,
    stop: threading.Event,
    promise: Promise,
) -> None:
    """Judge the findings, route and deliver the incidents, and keep the log small.

    One process on a database does so at a time; another one stands by.
    """
    from deploy.alerting import Alerting

    Alerting(
        rules=rules,
        receivers=receivers,
        routing=routing,
        heartbeat=heartbeat,
        describer=describer,
        cameras=cameras,
        keep=keep,
        keep_log=keep_log,
        clock_tolerance=clock_tolerance,
        places=places,
    ).run(stop, promise)


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
