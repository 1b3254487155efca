"""Answer the standing questions at the end of a window, as findings."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import groupby
from math import isfinite, nan

import structlog

from analyzer.batching import BatchedRunner, Failure
from analyzer.kv.focus import select_focus
from analyzer.kv.memory import UNLIMITED, Memory
from analyzer.models.messages import ScoreInput, YesNoScores
from analyzer.questions.calibration import Calibration
from analyzer.questions.question import Question
from analyzer.questions.schedule import QuestionSchedule
from analyzer.questions.second_look import SecondLook, second_look_scores
from storage.records.records import Finding, Window, YesNoAnswer

logger = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowAnswers:
    """The result of a step for one window.

    `failure` is why it is not remembered; `is_overlap` means that a part of it was remembered
    already; `unanswered` names the due questions without an answer.
    """

    window: Window
    findings: tuple[Finding, ...] = ()
    failure: Failure | None = None
    is_overlap: bool = False
    unanswered: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class QuestionBatch:
    """The standing questions with one look-back at the end of a window, and which are due."""

    window: Window
    memory: Memory
    look_back: timedelta
    standing: Sequence[Question]
    due: Sequence[Question]


@dataclass(frozen=True, slots=True, kw_only=True)
class QuestionAnswer:
    """An answer to one question; `margin` is None if the model produced none."""

    batch: QuestionBatch
    question: Question
    margin: float | None
    probability: float = 0.0
    answer: YesNoAnswer = YesNoAnswer.NO
    since: datetime | None = None

    @property
    def is_onset(self) -> bool:
        """Return whether a run of yes begins with this window."""
        return self.answer is YesNoAnswer.YES and self.since == self.batch.window.start

    @property
    def text(self) -> str:
        """Return the question as the model reads it."""
        return self.question.text_for(self.batch.window.camera)


class QuestionAnswerer:
    """Asks the standing questions and tracks their earlier answers."""

    def __init__(self, batched_runner: BatchedRunner, questions: Sequence[Question]) -> None:
        self.batched_runner = batched_runner
        self.schedule = QuestionSchedule(questions)
        self.calibration = Calibration()
        self._answer_since: dict[tuple[str, str], tuple[YesNoAnswer, datetime]] = {}

    def answer_due(self, ends: Sequence[tuple[Window, Memory]]) -> list[WindowAnswers]:
        """Answer the questions due at the end of windows that were just remembered."""
        due = [(window, memory, self.schedule.take_due(window)) for window, memory in ends]
        batches = [read for each in due for read in self._batches(*each)]
        answers = list(self._answers(batches, self._update_focus(batches)))
        onsets = [verdict for verdict in answers if verdict.is_onset]
        looks = [SecondLook(each.batch.memory, each.batch.look_back, each.text) for each in onsets]
        second_looks = dict(zip(map(id, onsets), self._second_look_scores(looks), strict=True))
        return [
            WindowAnswers(
                window=window,
                findings=tuple(
                    self._finding(verdict, verdict.margin, second_looks.get(id(verdict)))
                    for verdict in answers
                    if verdict.batch.window is window and verdict.margin is not None
                ),
                unanswered=tuple(
                    verdict.question.name
                    for verdict in answers
                    if verdict.batch.window is window and verdict.margin is None
                ),
            )
            for window, _ in ends
        ]

    def record_relevance(self, ends: Sequence[tuple[Window, Memory]]) -> None:
        """Record in the memories which chunks the standing questions attend to; answer none."""
        self._update_focus(
            [read for window, memory in ends for read in self._batches(window, memory, ())]
        )

    def restore(self, finding: Finding) -> None:
        """Restore an earlier answer after a restart."""
        key = (finding.camera, finding.question, finding.question_version)
        self.calibration.observe(key, finding.margin)
        self._answer_since[finding.camera, finding.question] = (finding.answer, finding.since)

    def restart(self, camera: str) -> None:
        """Reset schedule and runs of a camera whose time was set back."""
        self.schedule.restart(camera)
        for key in [key for key in self._answer_since if key[0] == camera]:
            del self._answer_since[key]

    def forget(self, camera: str) -> None:
        """Drop all answers about a camera."""
        self.restart(camera)
        self.calibration.forget(camera)

    def _second_look_scores(self, looks: Sequence[SecondLook]) -> list[float | None]:
        return second_look_scores(self.batched_runner, looks)

    def _batches(
        self, window: Window, memory: Memory, due: Sequence[Question]
    ) -> Iterator[QuestionBatch]:
        concerned = [q for q in self.schedule.questions if q.is_asked_of(window.camera)]
        for look_back, questions in groupby(sorted(concerned, key=_look_back), key=_look_back):
            standing = list(questions)
            yield QuestionBatch(
                window, memory, look_back, standing, [q for q in standing if q in due]
            )

    def _update_focus(self, batches: Sequence[QuestionBatch]) -> list[frozenset[int]]:
        """Return which older chunks each batch reads in full, and record their relevance.

        All standing questions of a look-back take part, due or not, so that no answer depends on
        which others are due at the same time.
        """
        focused = [frozenset[int]() for _ in batches]
        if not any(read.memory.plan.focus for read in batches):
            return focused
        with_older = [
            nth for nth, read in enumerate(batches) if read.memory.older_than_recent(read.look_back)
        ]
        scores = self._score(
            [(batches[nth], batches[nth].standing, frozenset()) for nth in with_older]
        )
        for nth, one in zip(with_older, scores, strict=True):
            if isinstance(one, Exception):
                continue
            memory = batches[nth].memory
            lift, focused[nth] = select_focus(memory, batches[nth].look_back, one.queries_NQHD)
            memory.record_relevance(lift)
        return focused

    def _answers(
        self, batches: Sequence[QuestionBatch], focused: Sequence[frozenset[int]]
    ) -> Iterator[QuestionAnswer]:
        due = [(read, focus) for read, focus in zip(batches, focused, strict=True) if read.due]
        scores = self._score([(read, read.due, focus) for read, focus in due])
        for (read, _), one in zip(due, scores, strict=True):
            failed = isinstance(one, Exception)
            margins = [nan] * len(read.due) if isinstance(one, Exception) else one.margins
            reason = str(one) if failed else "the model's answer is not a finite number"
            for question, margin in zip(read.due, margins, strict=True):
                if isfinite(margin):
                    yield self._answer(read, question, margin)
                    continue
                names = {"window": read.window.id, "question": question.name}
                logger.error("a question got no answer", reason=reason, **names)
                yield QuestionAnswer(batch=read, question=question, margin=None)

    def _score(
        self, batches: Sequence[tuple[QuestionBatch, Sequence[Question], frozenset[int]]]
    ) -> list[YesNoScores | Failure]:
        return self.batched_runner.score(
            [
                ScoreInput(
                    [question.text_for(read.window.camera) for question in asked],
                    read.memory.context(read.look_back, focus),
                )
                for read, asked, focus in batches
            ]
        )

    def _answer(self, batch: QuestionBatch, question: Question, margin: float) -> QuestionAnswer:
        key = (batch.window.camera, question.name, question.version)
        probability = self.calibration.observe(key, margin)
        answer = YesNoAnswer.YES if probability > 0.5 else YesNoAnswer.NO
        return QuestionAnswer(
            batch=batch,
            question=question,
            margin=margin,
            probability=probability,
            answer=answer,
            since=self._update_since(batch.window, question.name, answer),
        )

    def _finding(self, answer: QuestionAnswer, margin: float, second_look: float | None) -> Finding:
        batch, question = answer.batch, answer.question
        return Finding(
            window_id=batch.window.id,
            camera=batch.window.camera,
            question=question.name,
            question_version=question.version,
            start=batch.window.start,
            end=batch.window.end,
            score=answer.probability,
            margin=margin,
            answer=answer.answer,
            since=answer.since or batch.window.start,
            model=self.batched_runner.runner.name,
            memory_span=min(batch.memory.span, batch.look_back).total_seconds(),
            second_look=second_look,
            zone=question.zone,
        )

    def _update_since(self, window: Window, question: str, answer: YesNoAnswer) -> datetime:
        """Return the start of the current run of equal answers."""
        key = (window.camera, question)
        before = self._answer_since.get(key)
        if before is None or before[0] is not answer or before[1] > window.start:
            self._answer_since[key] = (answer, window.start)
        return self._answer_since[key][1]


def _look_back(question: Question) -> timedelta:
    return UNLIMITED if question.look_back is None else question.look_back
