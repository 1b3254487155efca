"""The roles: watch a camera, answer questions, judge and deliver.

Each role imports what it needs when it runs: a camera's process never loads torch.
"""

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from threading import Event
from typing import TYPE_CHECKING

import structlog

from deploy.config.data_dir import StorageLocations
from deploy.config.log_access import ANALYZE, INGEST
from deploy.errors import CannotRun
from deploy.runtime.alert_config import AlertRoleConfig
from deploy.runtime.process import Keepalive, ProcessRole, limit_threads

if TYPE_CHECKING:
    from analyzer.capacity.demand import MemoryDemand
    from analyzer.kv.budget import MemoryPlan
    from analyzer.models.runner import ModelRunner
    from analyzer.questions.question import Question
    from analyzer.watcher import Watcher
    from ingest.camera import Camera

MODEL_LOAD_SECONDS = 600.0
"""Seconds that loading a model may take."""

logger = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class IngestRole(ProcessRole):
    """Cut one camera's stream into windows."""

    camera: "Camera"
    locations: StorageLocations
    is_forked: bool = True

    def run(self, stop: Event, keepalive: Keepalive) -> None:
        """Append windows to the log until `stop` is set."""
        limit_threads(1)
        from deploy.runtime.wait_for import open_with_retry
        from ingest.worker import CameraWorker
        from storage.log.open_log import open_log

        log = open_with_retry(lambda: open_log(self.locations.log, access=INGEST), stop, keepalive)
        CameraWorker(self.camera, log, keepalive).run(stop)


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class AnalyzeRole(ProcessRole):
    """Answer the questions about every camera's windows on one device."""

    device: str
    demand: "MemoryDemand"
    questions: Sequence["Question"]
    clock_tolerance: timedelta
    locations: StorageLocations

    def run(self, stop: Event, keepalive: Keepalive) -> None:
        """Load the model, then append findings to the log until `stop` is set."""
        keepalive(MODEL_LOAD_SECONDS)
        limit_threads(os.cpu_count() or 1)
        # Memories of growing lengths would fragment a card's memory.
        os.environ.setdefault("PYTORCH_ALLOC_CONF", "expandable_segments:True")
        from analyzer.errors import DeviceLost, ModelUnusable
        from analyzer.worker import AnalyzerWorker
        from deploy.runtime.wait_for import open_with_retry
        from storage.log.open_log import open_log

        log = open_with_retry(lambda: open_log(self.locations.log, access=ANALYZE), stop, keepalive)
        keepalive(MODEL_LOAD_SECONDS)
        try:
            runner = self._load_runner()
            logger.info("model loaded", model=runner.name)
            keepalive(MODEL_LOAD_SECONDS)
            watcher = self._build_watcher(runner)
            tolerance = self.clock_tolerance
            worker = open_with_retry(
                lambda: AnalyzerWorker(log, watcher, keepalive, tolerance=tolerance),
                stop,
                keepalive,
            )
            worker.run(stop)
        except (ModelUnusable, DeviceLost) as error:
            logger.critical(str(error))
            sys.exit(1)

    @property
    def _plan(self) -> "MemoryPlan":
        from analyzer.capacity.demand import plan_of

        return plan_of(self.demand.memory)

    def _load_runner(self) -> "ModelRunner":
        """Load the model; raise CannotRun if the cameras do not fit its card."""
        from analyzer.kv.budget import arena_plan, arena_slots
        from analyzer.models.loading import load_model

        model, plan = self.demand.model, self._plan
        runner = load_model(model.name, self.device, model.dtype, model.revision)
        runner.proportional_attention = plan.proportional_attention
        if runner.model.device.type == "cuda":
            slots = arena_slots(plan, self.demand.cameras)
            runner.use_arena(arena_plan(plan, runner.shape_only_chunk, self.demand.shapes, slots))
            self._warm_up_or_refuse(runner)
        return runner

    def _warm_up_or_refuse(self, runner: "ModelRunner") -> None:
        """Warm the model up; raise CannotRun if the measured peak leaves too little memory."""
        from analyzer.capacity.capacity import Capacity
        from analyzer.kv.budget import MAX_WINDOWS_PER_STEP
        from analyzer.models.warmup import WarmUpWorkload, warm_up
        from deploy.checks.shortage import shortage
        from deploy.config.problems import format_key

        model = self.demand.model.model_copy(update={"device": self.device})
        demand = replace(self.demand, model=model)
        workload = WarmUpWorkload(
            plan=self._plan,
            shapes=demand.shapes,
            asks=demand.asks,
            look_backs=demand.look_backs,
            memories=min(MAX_WINDOWS_PER_STEP, demand.cameras),
        )
        peak = warm_up(runner, workload)
        arena = runner.arena_decoder.arena.nbytes if runner.arena_decoder else 0
        problem = shortage(Capacity(demand).with_measured_peak(peak, arena))
        if problem:
            raise CannotRun(f"{format_key(problem.key)}: {problem.message}")

    def _build_watcher(self, runner: "ModelRunner") -> "Watcher":
        """Return a watcher whose host slab has room for the queued chunks of all memories."""
        from analyzer.kv.budget import largest_budget
        from analyzer.kv.host_slab import host_slab_for
        from analyzer.watcher import Watcher

        plan, shapes = self._plan, self.demand.shapes
        budget = largest_budget(plan, runner.shape_only_chunk, shapes)
        # A new chunk is stored before the chunk that it replaces is dropped.
        chunks = [runner.shape_only_chunk(each.stills, plan.epoch + each.length) for each in shapes]
        spare = max(chunk.nbytes + tokens for chunk, tokens in chunks)
        waiting = self.demand.cameras * (budget.focus + budget.tokens)
        slab = host_slab_for(runner.model.device, waiting + spare)
        return Watcher(runner, self.questions, plan, budget, slab)


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class AlertRole(AlertRoleConfig):
    """Judge findings, notify receivers, and keep log and database within their retention."""

    def run(self, stop: Event, keepalive: Keepalive) -> None:
        """Lead until `stop` is set, once no other process on the database leads."""
        from deploy.runtime.alerts_process import AlertsProcess

        AlertsProcess(self, keepalive).run(stop)
