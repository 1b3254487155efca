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

from deploy.config.data_dir import PRIVATE_UMASK, StorageLocations
from deploy.config.log_access import ANALYZE, INGEST
from deploy.errors import CannotRun
from deploy.logs import setup
from deploy.runtime.refusals import report_refusals
from storage.errors import LeaseLost, StorageBlocked, StorageUnfit

if TYPE_CHECKING:
    from alerts.dispatch.describer import Describer
    from alerts.dispatch.grouping import NotificationPolicy
    from alerts.dispatch.heartbeat import Heartbeat
    from alerts.evidence.retention import RetentionPeriods
    from alerts.notify.receivers import Receiver
    from alerts.rules.rule import Rule
    from analyzer.capacity.demand import MemoryDemand
    from analyzer.kv.budget import MemoryPlan, WindowShape
    from analyzer.models.runner import ModelRunner
    from analyzer.questions.question import Question
    from analyzer.watcher import Watcher
    from ingest.camera import Camera
    from storage.log.retention import TopicRetention

MODEL_LOAD_SECONDS = 600.0
"""Seconds that it may take to load a model."""
EXIT_UNFIT = 2
"""The exit code of a process that would end the same way if it were started again at once."""
MAX_REASON_BYTES = 500
"""Bytes of why it cannot run."""
ORPHAN_GRACE_SECONDS = 5.0
"""Seconds that a process may go on after its supervisor has died."""

logger = structlog.get_logger()

Keepalive = Callable[[float], None]
"""`keepalive(seconds)` says that the process will be heard of again within so many seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessRole:
    """What one process does: `work(**arguments, stop=..., keepalive=...)`, all of it picklable."""

    name: str
    work: Callable[..., None]
    arguments: Mapping[str, object] = field(repr=False)
    logging: setup.LoggingConfig
    is_forked: bool = False
    """Whether its process shares the modules that all cameras load (`shared_modules`)."""


def run_role(role: ProcessRole, deadline: c_double, reason: Array[c_char]) -> None:
    """Be the process of a role until SIGTERM, SIGINT, a crash or the supervisor's death.

    One that cannot run as it is configured leaves why in `reason` and ends with UNFIT.
    """
    os.umask(PRIVATE_UMASK)
    stop = stop_on_signals()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM, signal.SIGINT})
    threading.Thread(target=_exit_with_parent, args=(stop,), daemon=True).start()
    setup.configure_logging(role.logging, role.name)

    def keepalive(seconds: float) -> None:
        deadline.value = time.monotonic() + seconds

    locations = role.arguments.get("locations")
    try:
        with report_refusals(
            role.name, locations if isinstance(locations, StorageLocations) else None
        ):
            role.work(**role.arguments, stop=stop, keepalive=keepalive)
    except (CannotRun, StorageUnfit) as error:
        message = setup.SecretRedactor(role.logging.secrets).redact(error)
        reason.value = message.encode()[:MAX_REASON_BYTES]
        logger.critical(message)
        sys.exit(EXIT_UNFIT)
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
    *, camera: "Camera", locations: StorageLocations, stop: threading.Event, keepalive: Keepalive
) -> None:
    """Cut one camera into windows."""
    limit_threads(1)
    from deploy.runtime.wait_for import open_with_retry
    from ingest.worker import CameraWorker
    from storage.log.open_log import open_log

    log = open_with_retry(lambda: open_log(locations.log, access=INGEST), stop, keepalive)
    CameraWorker(camera, log, keepalive).run(stop)


def analyze(
    *,
    model: str,
    revision: str | None,
    device: str,
    dtype: str,
    plan: "MemoryPlan",
    shapes: Sequence["WindowShape"],
    questions: Sequence["Question"],
    site: "MemoryDemand",
    clock_tolerance: timedelta,
    locations: StorageLocations,
    stop: threading.Event,
    keepalive: Keepalive,
) -> None:
    """Answer the questions about every camera's windows."""
    keepalive(MODEL_LOAD_SECONDS)
    limit_threads(os.cpu_count() or 1)
    # Memories of ever new lengths would leave gaps in a card's memory.
    os.environ.setdefault("PYTORCH_ALLOC_CONF", "expandable_segments:True")
    from analyzer.errors import DeviceLost, ModelUnusable
    from analyzer.kv.budget import arena_plan, arena_slots
    from analyzer.models.loading import load_model
    from analyzer.worker import AnalyzerWorker
    from deploy.runtime.wait_for import open_with_retry
    from storage.log.open_log import open_log

    log = open_with_retry(lambda: open_log(locations.log, access=ANALYZE), stop, keepalive)
    keepalive(MODEL_LOAD_SECONDS)
    try:
        runner = load_model(model, device, dtype, revision)
        runner.proportional_attention = plan.proportional_attention
        if runner.model.device.type == "cuda":
            slot_plan = arena_slots(plan, site.cameras)
            runner.use_arena(arena_plan(plan, runner.shape_only_chunk, shapes, slot_plan))
            _warm_up_or_refuse(runner, _site_on_device(device, site))
    except ModelUnusable as error:
        logger.critical(str(error))
        sys.exit(1)
    logger.info("model loaded", model=runner.name)
    keepalive(MODEL_LOAD_SECONDS)
    watcher = _build_watcher(runner, questions, plan, shapes, site.cameras)
    worker = open_with_retry(
        lambda: AnalyzerWorker(log, watcher, keepalive, tolerance=clock_tolerance), stop, keepalive
    )
    try:
        worker.run(stop)
    except DeviceLost as error:
        logger.critical(str(error))
        sys.exit(1)


def _build_watcher(
    runner: "ModelRunner",
    questions: Sequence["Question"],
    plan: "MemoryPlan",
    shapes: Sequence["WindowShape"],
    cameras: int,
) -> "Watcher":
    """Return what remembers and answers, with room on the host for what all memories let wait."""
    from analyzer.kv.budget import largest_budget
    from analyzer.kv.host_slab import host_slab_for
    from analyzer.watcher import Watcher

    budget = largest_budget(plan, runner.shape_only_chunk, shapes)
    # A chunk comes before the one that it takes the place of goes.
    chunks = [runner.shape_only_chunk(shape.stills, plan.epoch + shape.length) for shape in shapes]
    spare = max(chunk.nbytes + tokens for chunk, tokens in chunks)
    waiting = cameras * (budget.focus + budget.tokens)
    slab = host_slab_for(runner.model.device, waiting + spare)
    return Watcher(runner, questions, plan, budget, slab)


def _site_on_device(device: str, site: "MemoryDemand") -> "MemoryDemand":
    """Return a site whose model runs on one device of those that are set."""
    return replace(site, model=site.model.model_copy(update={"device": device}))


def _warm_up_or_refuse(runner: "ModelRunner", site: "MemoryDemand") -> None:
    """Warm a model up on its card; raise CannotRun where the cameras do not fit then."""
    from analyzer.capacity.capacity import Capacity
    from analyzer.capacity.demand import plan_of
    from analyzer.kv.budget import MAX_WINDOWS_PER_STEP
    from analyzer.models.warmup import WarmUpWorkload, warm_up
    from deploy.checks.shortage import shortage

    workload = WarmUpWorkload(
        plan=plan_of(site.memory),
        shapes=site.shapes,
        asks=site.asks,
        look_backs=site.look_backs,
        memories=min(MAX_WINDOWS_PER_STEP, site.cameras),
    )
    peak = warm_up(runner, workload)
    arena = runner.arena_decoder.arena.nbytes if runner.arena_decoder else 0
    problem = shortage(Capacity(site).with_measured_peak(peak, arena))
    if problem:
        key, message = problem
        raise CannotRun(f"{'.'.join(map(str, key))}: {message}")


def alert(
    *,
    rules: Sequence["Rule"],
    receivers: Sequence["Receiver"],
    notification_policy: "NotificationPolicy",
    heartbeat: "Heartbeat | None",
    describer: "Describer",
    cameras: Collection[str],
    retention: "RetentionPeriods",
    log_retention: "Sequence[TopicRetention]",
    clock_tolerance: timedelta,
    locations: StorageLocations,
    stop: threading.Event,
    keepalive: Keepalive,
) -> None:
    """Judge the findings, route and deliver the incidents, and keep the log small.

    One process on a database does so at a time; another one stands by.
    """
    from deploy.runtime.alerts_process import AlertsProcess

    AlertsProcess(
        rules=rules,
        receivers=receivers,
        notification_policy=notification_policy,
        heartbeat=heartbeat,
        describer=describer,
        cameras=cameras,
        retention=retention,
        log_retention=log_retention,
        clock_tolerance=clock_tolerance,
        locations=locations,
    ).run(stop, keepalive)


def limit_threads(number: int) -> None:
    """Give the numeric libraries, loaded after this, so many threads."""
    os.environ.setdefault("OMP_NUM_THREADS", str(number))
    # Threads that spin while they wait made a busy machine 15 times slower.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")


def _exit_with_parent(stop: threading.Event) -> None:
    """End this process when the one that started it is gone."""
    parent = parent_process()
    if parent is None:
        raise RuntimeError("a role is entered in a process of its own")
    connection.wait([parent.sentinel])
    stop.set()
    last_resort = threading.Timer(ORPHAN_GRACE_SECONDS, os._exit, (1,))
    last_resort.daemon = True
    last_resort.start()
