"""A device without room, one that fails, and answers that are no number: what it costs."""

import threading
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from math import nan

import pytest
import torch
from structlog.testing import capture_logs

from analyzer.batching import PASSES_TO_GROW, BatchedRunner
from analyzer.errors import DeviceLost
from analyzer.intake.coverage import EntryOutcome
from analyzer.intake.queue import WindowQueue
from analyzer.intake.restore import StateRestorer
from analyzer.kv.arena.arena import AnyChunk
from analyzer.kv.budget import MAX_WINDOWS_PER_STEP, MemoryPlan
from analyzer.kv.encoded import EncodedWindow
from analyzer.models.messages import ScoreInput, WindowRun, WindowToRemember, YesNoScores
from analyzer.models.runner import ModelRunner
from analyzer.questions.question import Question
from analyzer.questions.second_look import SecondLook, second_look_scores
from analyzer.watcher import Watcher
from analyzer.worker import GROUP, AnalyzerWorker
from kit.model.chunks import plain_chunk
from kit.model.small_model import small_runner, window
from storage.errors import Unreadable
from storage.log.memory_log import MemoryLog
from storage.records.claims import decode_claim
from storage.records.records import CoverageState, Finding, Window
from storage.records.topics import COVERAGE, DEAD_LETTERS, FINDINGS, WINDOWS
from storage.records.wire import decode_finding, encode_window
from test_watcher import question

LOST = "CUDA error: an illegal memory access was encountered\ncompile with -g"
FULL = "CUDA out of memory. Tried to allocate 2.00 GiB"
STOP = threading.Event()
CAMERAS = [f"c{n}" for n in range(6)]


class LimitedCardRunner(ModelRunner):
    """A small model on a device with room for so many windows, chunks or memories in a pass."""

    see_room = read_room = ask_room = 99
    passes: list[tuple[str, int]]
    no_number: str = ""
    fault: Exception | None = None

    def encode(self, runs: Sequence[WindowRun]) -> list[list[EncodedWindow]]:
        self._take("see", sum(len(run.windows) for run in runs), self.see_room)
        return super().encode(runs)

    def prefill(self, windows: Sequence[WindowToRemember]) -> list[AnyChunk]:
        self._take("read", len(windows), self.read_room)
        return super().prefill(windows)

    def score(self, inputs: Sequence[ScoreInput]) -> list[YesNoScores]:
        self._take("ask", len(inputs), self.ask_room)
        return [
            replace(
                one,
                margins=[
                    nan if text == self.no_number else margin
                    for text, margin in zip(each.questions, one.margins, strict=True)
                ],
            )
            for each, one in zip(inputs, super().score(inputs), strict=True)
        ]

    def _take(self, what: str, size: int, room: int) -> None:
        self.passes.append((what, size))
        if self.fault is not None:
            raise self.fault
        if size > room:
            raise torch.OutOfMemoryError(FULL)

    def sizes(self, what: str) -> list[int]:
        """Return the sizes of the passes so far, and forget all passes."""
        found = [size for name, size in self.passes if name == what]
        self.passes.clear()
        return found


@pytest.fixture(scope="module")
def plain() -> ModelRunner:
    return small_runner()


@pytest.fixture
def card(plain: ModelRunner) -> LimitedCardRunner:
    found = LimitedCardRunner(plain.model, plain.tokenizer, plain.name)
    found.passes = []
    return found


def windows(nth: int) -> list[Window]:
    return [window(nth, camera, shades=(10 * n, 200)) for n, camera in enumerate(CAMERAS)]


def lived(runner: ModelRunner, *questions: Question, steps: int = 3) -> list[Finding]:
    watching = Watcher(runner, questions or [question()], MemoryPlan())
    return [
        finding
        for nth in range(steps)
        for answers in watching.step_all(windows(nth))
        for finding in answers.findings
    ]


def same(ours: Sequence[Finding], theirs: Sequence[Finding]) -> None:
    assert [f.id for f in ours] == [f.id for f in theirs]
    assert [f.margin for f in ours] == pytest.approx([f.margin for f in theirs], abs=1e-4)


@pytest.mark.parametrize("what", ["see", "read", "ask"])
@pytest.mark.parametrize("room", [1, 2, 5])
def test_step_that_does_not_fit_is_taken_in_halves(
    plain: ModelRunner, card: LimitedCardRunner, what: str, room: int
) -> None:
    setattr(card, f"{what}_room", room)
    same(lived(card), lived(plain))


def test_size_that_fitted_is_kept_and_grows_again(card: LimitedCardRunner) -> None:
    batches, window_ = BatchedRunner(card), ([window().stills[0].jpeg] * 4,)
    runs = [WindowRun(window_)] * MAX_WINDOWS_PER_STEP
    card.see_room = 3
    batches.encode(runs)
    assert card.sizes("see") == [8, 4, 2, 2, 2, 2]
    batches.encode(runs)
    assert card.sizes("see") == [2, 2, 2, 2]
    card.see_room = 99
    for _ in range(PASSES_TO_GROW // 4):
        batches.encode(runs)
    card.passes.clear()
    batches.encode(runs)
    assert card.sizes("see") == [4, 4]


def test_window_that_never_fits_is_shed_and_said_so(card: LimitedCardRunner) -> None:
    log = MemoryLog()
    for one in windows(0):
        log.append(WINDOWS, one.camera, encode_window(one))
    card.read_room = 0
    with capture_logs() as log_lines:
        assert worker(card, log).run_once(STOP) == len(CAMERAS)
    assert states(log) == {CoverageState.SHED}
    assert log.read(DEAD_LETTERS, 0) == log.read(FINDINGS, 0) == []
    assert log.committed(GROUP, WINDOWS) == len(CAMERAS)
    told = [each for each in log_lines if each["event"] == "window not read"]
    assert len(told) == len(CAMERAS)
    assert "memory" in told[0]["reason"]


def worker(runner: ModelRunner, log: MemoryLog, *questions: Question) -> AnalyzerWorker:
    watching = Watcher(runner, questions or [question()], MemoryPlan())
    return AnalyzerWorker(log, watching, keepalive=lambda seconds: None)


def states(log: MemoryLog) -> set[CoverageState]:
    claims = [decode_claim(entry.value) for entry in log.read(COVERAGE, 0)]
    return {claim.state for claim in claims if claim.start is not None}


def test_window_with_a_question_without_an_answer_is_not_analysed(card: LimitedCardRunner) -> None:
    log, asked = MemoryLog(), [question(), question("bag", ask="Is there a bag?")]
    log.append(WINDOWS, "dock", encode_window(window()))
    card.no_number = "Is there a bag?"
    with capture_logs() as log_lines:
        assert worker(card, log, *asked).run_once(STOP) == 1
    assert states(log) == {CoverageState.CORRUPT}
    (kept,) = [decode_finding(entry.value) for entry in log.read(FINDINGS, 0)]
    assert kept.question == "fire"
    (told,) = [each for each in log_lines if each["log_level"] == "error"]
    assert (told["question"], told["window"]) == ("bag", window().id)


def test_device_that_is_lost_ends_the_worker_and_loses_nothing(card: LimitedCardRunner) -> None:
    log = MemoryLog()
    log.append(WINDOWS, "dock", encode_window(window(0)))
    running = worker(card, log)
    running.run_once(STOP)
    log.append(WINDOWS, "dock", encode_window(window(1)))
    card.fault = torch.AcceleratorError(LOST)
    with pytest.raises(DeviceLost) as lost:
        running.run(threading.Event())
    assert f"{lost.value}\n" == "the device failed: " + LOST.removesuffix("compile with -g")
    card.fault = None
    again = worker(card, log)
    assert again.run_once(STOP) == 1
    found = [decode_finding(entry.value).start for entry in log.read(FINDINGS, 0)]
    assert found == [window(0).start, window(1).start]


def test_fault_of_ours_is_no_lost_device(card: LimitedCardRunner) -> None:
    card.fault = RuntimeError("mat1 and mat2 shapes cannot be multiplied")
    with pytest.raises(RuntimeError, match="shapes"):
        BatchedRunner(card).encode([WindowRun([[window().stills[0].jpeg]])])


def torn(whole: Window) -> Window:
    stills = tuple(replace(still, jpeg=still.jpeg[:40]) for still in whole.stills)
    return replace(whole, stills=stills)


def test_unreadable_window_costs_the_others_of_its_step_nothing(plain: ModelRunner) -> None:
    watching = Watcher(plain, [question()], MemoryPlan())
    batch = windows(0)
    batch[2] = torn(batch[2])
    answers = watching.step_all(batch)
    assert [isinstance(each.failure, Unreadable) for each in answers] == [
        nth == 2 for nth in range(len(batch))
    ]
    others = [f for each in answers for f in each.findings]
    same(others, [f for f in lived(plain, steps=1) if f.camera != "c2"])


def test_rehearsal_of_many_equals_one_by_one(plain: ModelRunner) -> None:
    """Windows of several cameras, one of them torn, one twice, one whose time was set back."""
    log = [w for nth in range(5) for w in windows(nth)[:2]]
    log += [window(nth, "c3") for nth in range(5)]
    log[4] = torn(log[4])
    log.insert(7, log[6])
    log.append(window(2, "c3", after_gap=True))
    plan = MemoryPlan(horizon=timedelta(seconds=160), recent=2)
    together, apart = Watcher(plain, [question()], plan), Watcher(plain, [question()], plan)
    failures = [
        f
        for at in range(0, len(log), MAX_WINDOWS_PER_STEP)
        for f in together.restore(log[at : at + 8])
    ]
    one_by_one = [failure for one in log for failure in apart.restore([one])]
    assert [type(each) for each in failures] == [type(each) for each in one_by_one]
    assert sum(isinstance(each, Unreadable) for each in failures) == 1
    for camera in ("c0", "c1", "c3"):
        ours, theirs = together.memory_of(camera), apart.memory_of(camera)
        assert [c.start for c in ours.chunks] == [c.start for c in theirs.chunks]
        for one, other in zip(ours.chunks, theirs.chunks, strict=True):
            torch.testing.assert_close(
                plain_chunk(one.pooled).keys_NKTD,
                plain_chunk(other.pooled).keys_NKTD,
                atol=1e-4,
                rtol=1e-3,
            )


def test_rehearsal_is_heard_of_before_each_batch_and_knows_what_was_torn(
    plain: ModelRunner,
) -> None:
    log, heard = MemoryLog(), list[int]()
    for nth in range(4):
        for one in windows(nth):
            log.append(WINDOWS, one.camera, encode_window(torn(one) if nth == 3 else one))
    log.append(WINDOWS, "c0", b"nonsense")
    watching = Watcher(plain, [question()], MemoryPlan())
    rehearsal = StateRestorer(log, watching, lambda: heard.append(1))
    queue = WindowQueue(WINDOWS, 25, 0)
    assert rehearsal.restore_memories(queue, 25) == 18
    assert len(heard) == 4
    assert len(watching.memory_of("c5").chunks) == 3
    whole = EntryOutcome(
        topic=FINDINGS, values=[], state=CoverageState.ANALYSED, window=window(4, "c0")
    )
    (before, _) = queue.gaps.record("c0", whole)
    assert (before.start, before.state) == (None, CoverageState.CORRUPT)


def as_it_was(watching: Watcher, doubt: SecondLook) -> float:
    """Return the margin of a second look as it was taken for each question by itself."""
    held = list[AnyChunk]()
    for chunk in doubt.memory.recent_within(doubt.look_back, 99):
        piece = WindowToRemember(chunk.tokens_GVE, doubt.memory.to_timestamps(chunk.times), held)
        held += watching.runner.prefill([piece])
    return watching.runner.margins([doubt.ask], held)[0]


@pytest.mark.parametrize("recent", [2, 4, 6])
def test_second_look_reads_once_what_each_question_read_before(
    card: LimitedCardRunner, recent: int
) -> None:
    watching = Watcher(card, [], MemoryPlan(horizon=timedelta(seconds=160), recent=recent))
    for nth in range(8):
        watching.restore(windows(nth))
    asks = ["Is there a fire?", "Is there a bag?", "Is there a crowd?"]
    reaches = [timedelta.max, timedelta(seconds=40), timedelta(hours=1)]
    doubts = [
        SecondLook(watching.memory_of(camera), reach, ask)
        for camera in CAMERAS[:3]
        for reach in reaches
        for ask in asks
    ]
    card.passes.clear()
    scores = second_look_scores(watching.batched_runner, doubts)
    assert sum(name == "ask" for name, _ in card.passes) == 1
    assert len(card.sizes("read")) <= recent + 1
    wanted = [1 / (1 + 2.718281828459045 ** -as_it_was(watching, doubt)) for doubt in doubts]
    assert scores == pytest.approx(wanted, abs=1e-5)
    assert len({round(each, 5) for each in wanted}) > 3
