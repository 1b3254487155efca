"""Windows in, findings out: which questions are asked when, and what a finding says."""

import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from analyzer.kv.budget import MemoryPlan
from analyzer.models.messages import YesNoScores
from analyzer.models.runner import ModelRunner
from analyzer.questions.calibration import Calibration, probability_of
from analyzer.questions.question import Question
from analyzer.questions.schedule import QuestionSchedule
from analyzer.watcher import Watcher
from analyzer.worker import BATCH_SIZE, GROUP, AnalyzerWorker
from kit.model.memory_bytes import tier_bytes
from kit.model.small_model import BEGIN, small_runner, window
from kit.model.videoxl2 import videoxl2_of
from storage.errors import StorageFull
from storage.log.memory_log import MemoryLog
from storage.records.claims import decode_claim
from storage.records.records import CoverageState, Finding, Still, Window, WindowClock, YesNoAnswer
from storage.records.topics import COVERAGE, DEAD_LETTERS, FINDINGS, WINDOWS
from storage.records.wire import decode_dead_letter, decode_finding, encode_window


def question(name: str = "fire", **changes: Any) -> Question:
    fields: dict[str, Any] = {
        "ask": "Is there a fire?",
        "cameras": frozenset(),
        "every": timedelta(seconds=16),
        "look_back": None,
    }
    return Question(name=name, **{**fields, **changes})


@pytest.fixture(scope="module")
def runner() -> ModelRunner:
    return small_runner()


def watcher(runner: ModelRunner, *questions: Question) -> Watcher:
    return Watcher(runner, questions or [question()], MemoryPlan())


def run(watcher: Watcher, windows: Iterator[Window] | list[Window]) -> list[Finding]:
    return [finding for w in windows for finding in watcher.step(w)]


def test_every_window_is_answered(runner: ModelRunner) -> None:
    findings = run(watcher(runner), [window(n) for n in range(6)])
    assert [f.window_id for f in findings] == [window(n).id for n in range(6)]
    assert [f.memory_span for f in findings] == [15, 31, 47, 63, 63, 63]
    assert {f.model for f in findings} == {"small@0"}
    assert all((f.answer is YesNoAnswer.YES) == (f.score > 0.5) for f in findings)


def test_a_replayed_window_is_passed_over(runner: ModelRunner) -> None:
    watching = watcher(runner)
    assert len(run(watching, [window(0), window(1), window(0), window(1)])) == 2


def test_time_set_back_starts_an_empty_memory(runner: ModelRunner) -> None:
    watching = watcher(runner)
    run(watching, [window(n) for n in range(3)])
    earlier = window(begin=BEGIN - timedelta(hours=2), after_gap=True)
    (finding,) = run(watching, [earlier])
    assert finding.memory_span == 15
    assert finding.since == earlier.start


def test_cameras_do_not_see_each_other(runner: ModelRunner) -> None:
    alone = run(watcher(runner), [window(n) for n in range(3)])
    mixed = watcher(runner)
    others = [window(n, camera="gate", shades=(0, 255, 90)) for n in range(3)]
    both = [w for pair in zip(others, [window(n) for n in range(3)], strict=True) for w in pair]
    together = [f for f in run(mixed, both) if f.camera == "dock"]
    assert [f.margin for f in together] == [f.margin for f in alone]


def test_questions_packed_with_others_answer_the_same(runner: ModelRunner) -> None:
    near = question("bag", ask="Is there an abandoned bag?", look_back=timedelta(seconds=16))
    windows = [window(n) for n in range(3)]
    alone = [f.margin for f in run(watcher(runner, near), windows)]
    together = run(watcher(runner, question(), near, question("crowd")), windows)
    packed = [f for f in together if f.question == "bag"]
    assert [f.margin for f in packed] == pytest.approx(alone, abs=1e-4)
    assert {f.memory_span for f in packed} <= {15, 16}


class ScriptedRunner(ModelRunner):
    """Answers as it is told: the margins of the next asks, in order."""

    script: Iterator[float]

    def score(self, inputs: Any) -> list[YesNoScores]:
        return [replace(one, margins=[next(self.script)]) for one in super().score(inputs)]


def test_since_is_the_start_of_the_run(runner: ModelRunner) -> None:
    scripted = ScriptedRunner(runner.model, runner.tokenizer, runner.name)
    margins = [-3.0, -2.0, 4.0, 5.0, -1.0, 2.0]
    again = 0.0  # a yes that begins is looked at once more
    scripted.script = iter([-3.0, -2.0, 4.0, again, 5.0, -1.0, 2.0, again])
    findings = run(watcher(scripted), [window(n) for n in range(6)])
    assert [f.margin for f in findings] == margins
    begun = [0, 0, 2, 2, 4, 5]
    assert [f.since for f in findings] == [window(n).start for n in begun]


def test_model_whose_logits_are_no_numbers_analyses_nothing() -> None:
    log, broken = MemoryLog(), small_runner()
    videoxl2_of(broken).language.decoder.model.norm.weight.data[0] = torch.nan
    log.append(WINDOWS, "dock", *(encode_window(window(n)) for n in range(3)))
    working = worker(broken, log)
    while working.run_once(threading.Event()):
        pass
    claims = [decode_claim(entry.value) for entry in log.read(COVERAGE, 0)]
    before, *of_windows = [claim.state for claim in claims]
    assert before is CoverageState.ANALYZER_DOWN
    assert of_windows == [CoverageState.CORRUPT] * 3
    assert claims[-1].end >= window(2).end
    assert log.read(FINDINGS, 0) == []


def test_a_question_concerns_its_cameras_only() -> None:
    agenda = QuestionSchedule([question(cameras=frozenset({"gate"}))])
    assert not agenda.take_due(window(0))
    assert agenda.take_due(window(0, camera="gate"))


@settings(max_examples=60, deadline=None)
@given(every=st.integers(1, 200), late=st.lists(st.floats(-0.4, 0.4), min_size=60, max_size=60))
def test_questions_keep_their_pace_in_stream_time(every: int, late: list[float]) -> None:
    """Over a long stream a question is asked as often as it can be, jitter or not."""
    agenda, clock = QuestionSchedule([question(every=timedelta(seconds=every))]), window(0).clock
    asked = 0
    for nth, jitter in enumerate(late):
        asked += len(agenda.take_due(jittered(nth, jitter, clock)))
    windows_apart = max(1.0, every / 16)
    assert abs(asked - 60 / windows_apart) <= 1.5


def jittered(nth: int, late: float, clock: WindowClock) -> Window:
    begin = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=16 * nth + late)
    stills = tuple(
        Still(at=begin + timedelta(seconds=s), jpeg=b"", width=1, height=1) for s in (0, 15)
    )
    return Window(camera="dock", stills=stills, clock=clock, after_gap=False)


def worker(runner: ModelRunner, log: MemoryLog) -> AnalyzerWorker:
    return AnalyzerWorker(log, watcher(runner), keepalive=lambda seconds: None)


def test_findings_reach_the_log_before_the_window_is_committed(runner: ModelRunner) -> None:
    log = MemoryLog()
    for nth in range(3):
        log.append(WINDOWS, "dock", encode_window(window(nth)))
    assert worker(runner, log).run_once(threading.Event()) == 3
    findings = [decode_finding(entry.value) for entry in log.read(FINDINGS, 0)]
    assert [f.window_id for f in findings] == [window(n).id for n in range(3)]
    assert log.committed(GROUP, WINDOWS) == 3


def test_an_unreadable_window_is_set_aside_and_the_next_is_read(runner: ModelRunner) -> None:
    log = MemoryLog()
    bad = window(0)
    torn = tuple(replace(still, jpeg=still.jpeg[:40]) for still in bad.stills)
    half = replace(bad, stills=torn)
    log.append(WINDOWS, "dock", b"nonsense", encode_window(half), encode_window(window(1)))
    assert worker(runner, log).run_once(threading.Event()) == 3
    dead = [decode_dead_letter(entry.value) for entry in log.read(DEAD_LETTERS, 0)]
    assert [(d.offset, d.value) for d in dead] == [(0, b"nonsense"), (1, encode_window(half))]
    assert len(log.read(FINDINGS, 0)) == 1


class TemporarilyFullLog(MemoryLog):
    """A log whose disk is full for the first few appends of findings."""

    def __init__(self, times: int) -> None:
        super().__init__()
        self.times = times

    def append(self, topic: str, key: str, *values: bytes) -> int:
        if topic == FINDINGS and self.times:
            self.times -= 1
            raise StorageFull("here")
        return super().append(topic, key, *values)


def test_findings_wait_for_a_full_disk(
    runner: ModelRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("analyzer.intake.committer.BLOCKED_WAIT", 0.01)
    log = TemporarilyFullLog(3)
    log.append(WINDOWS, "dock", encode_window(window(0)), encode_window(window(1)))
    with capture_logs() as log_lines:
        assert worker(runner, log).run_once(threading.Event()) == 2
    assert len(log.read(FINDINGS, 0)) == 2
    assert [each["event"] for each in log_lines].count("findings wait") == 1


def test_a_step_that_is_stopped_commits_nothing(runner: ModelRunner) -> None:
    log, stop = TemporarilyFullLog(1000), threading.Event()
    log.append(WINDOWS, "dock", encode_window(window(0)))
    stop.set()
    assert worker(runner, log).run_once(stop) == 0
    assert log.committed(GROUP, WINDOWS) == 0


def test_one_corrupt_still_is_replaced_and_the_window_answered(runner: ModelRunner) -> None:
    whole = window(0)
    stills = (whole.stills[0], replace(whole.stills[1], jpeg=b"?"), *whole.stills[2:])
    assert len(run(watcher(runner), [replace(whole, stills=stills)])) == 1


def test_window_of_another_camera_is_set_aside(runner: ModelRunner) -> None:
    log = MemoryLog()
    log.append(WINDOWS, "gate", encode_window(window(0, "dock")))
    assert worker(runner, log).run_once(threading.Event()) == 1
    (dead,) = log.read(DEAD_LETTERS, 0)
    assert "another camera" in decode_dead_letter(dead.value).reason


def test_waiting_windows_are_read_in_order_and_together(runner: ModelRunner) -> None:
    log, apart = MemoryLog(), MemoryLog()
    one_by_one = worker(runner, apart)
    for nth in range(3):
        for camera in ("dock", "gate", "yard"):
            log.append(WINDOWS, camera, encode_window(window(nth, camera)))
            apart.append(WINDOWS, camera, encode_window(window(nth, camera)))
            one_by_one.run_once(threading.Event())
    together = worker(runner, log)
    while together.run_once(threading.Event()):
        pass
    ours, told = (
        [decode_finding(entry.value) for entry in each.read(FINDINGS, 0)] for each in (log, apart)
    )
    assert [f.id for f in ours] == [f.id for f in told]
    assert [f.margin for f in ours] == pytest.approx([f.margin for f in told], abs=1e-4)


def test_restarted_analyzer_rehearses_and_goes_on_as_if_it_had_lived(runner: ModelRunner) -> None:
    log, whole = MemoryLog(), MemoryLog()
    for each in (log, whole):
        for nth in range(12):
            each.append(WINDOWS, "dock", encode_window(window(nth)))
    lived = worker(runner, whole)
    first = worker(runner, log)
    for _ in range(1):
        first.run_once(threading.Event())
    assert log.committed(GROUP, WINDOWS) == 8
    second = worker(runner, log)
    assert second.rebalance() == 8
    assert len(log.read(FINDINGS, 0)) == 8
    for analyzer in (second, lived):
        while analyzer.run_once(threading.Event()):
            pass
    ours, told = (
        [decode_finding(entry.value) for entry in each.read(FINDINGS, 0)] for each in (log, whole)
    )
    assert [f.id for f in ours] == [f.id for f in told]
    assert [f.memory_span for f in ours] == [f.memory_span for f in told]
    assert [f.since for f in ours] == [f.since for f in told]
    assert tier_bytes(second.watcher.memory_of("dock")) == tier_bytes(
        lived.watcher.memory_of("dock")
    )


def test_second_look_is_taken_when_a_run_of_yes_begins(runner: ModelRunner) -> None:
    watching = watcher(runner)
    findings = run(watching, [window(n) for n in range(4)])
    begun = [f for f in findings if f.answer is YesNoAnswer.YES and f.since == f.start]
    assert [f for f in findings if f.second_look is not None] == begun
    watching.answerer.calibration.observe = lambda key, margin: 0.9  # type: ignore[method-assign]
    watching.answerer._answer_since.clear()
    (fifth,) = run(watching, [window(4)])
    (sixth,) = run(watching, [window(5)])
    assert fifth.second_look is not None
    assert 0 < fifth.second_look < 1
    assert sixth.second_look is None


def test_usual_margins_of_a_camera_are_no_news() -> None:
    calibration, key = Calibration(), ("dock", "fire", "1")
    noisy = [3.0 + 0.1 * (n % 7) for n in range(400)]
    early = [calibration.observe(key, margin) for margin in noisy[:128]]
    late = [calibration.observe(key, margin) for margin in noisy[128:]]
    assert min(early) > 0.9
    assert max(late) < 0.5
    assert calibration.observe(key, 9.0) > 0.99


def test_calibration_never_raises_a_probability() -> None:
    calibration, key = Calibration(), ("dock", "fire", "1")
    told = [calibration.observe(key, -4.0 + 0.01 * (n % 5)) for n in range(300)]
    assert max(told) < 0.02
    assert calibration.observe(key, 1.0) == probability_of(1.0)


class AheadWatcher(Watcher):
    """Notes what is prepared and what is handled, as beside a card that does not decode."""

    can_decode_ahead = True  # type: ignore[assignment]

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.noted = list[tuple[str, str]]()

    def prepare(self, window: Window) -> None:
        self.noted.append(("decode", window.camera))
        super().prepare(window)

    def step_all(self, windows: Any) -> Any:
        self.noted += [("read", window.camera) for window in windows]
        return super().step_all(windows)


def test_windows_of_the_next_step_are_decoded_while_this_one_is_read(runner: ModelRunner) -> None:
    log, names = MemoryLog(), [f"c{nth:02}" for nth in range(BATCH_SIZE + 2)]
    watching = AheadWatcher(runner, [], MemoryPlan())
    working = AnalyzerWorker(log, watching, keepalive=lambda seconds: None)
    for name in names:
        log.append(WINDOWS, name, encode_window(window(camera=name)))
    log.append(WINDOWS, "torn", b"no window")
    while working.run_once(threading.Event()):
        pass
    first = watching.noted.index(("read", names[0]))
    decoded = [name for what, name in watching.noted[:first] if what == "decode"]
    assert decoded[:BATCH_SIZE] == names[:BATCH_SIZE]
    assert [name for what, name in watching.noted if what == "read"] == names
    assert runner.still_decoder.prepared_count == 0
