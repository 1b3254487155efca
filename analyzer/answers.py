"""What a camera is asked at the end of a window, and the findings that come of it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import groupby
from math import isfinite, nan

import structlog

from analyzer.agenda import Agenda
from analyzer.batches import Batches, Failure
from analyzer.calibration import Calibration
from analyzer.focus import focus_of
from analyzer.memory import FOREVER, Memory
from analyzer.questions import Question
from analyzer.second_look import Doubt, look_again
from analyzer.videoxl2.speaker import Said
from storage.records import Answer, Finding, Window

logger = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowAnswers:
    """What a step made of a window.

    `failure` says why it is not remembered, and `is_overlap` that a part of it was remembered
    already; `unanswered` names the questions that were due and got no answer.
    """

    window: Window
    findings: tuple[Finding, ...] = ()
    failure: Failure | None = None
    is_overlap: bool = False
    unanswered: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Read:
    """Standing questions of one reach at the end of a window, and those of them that are due."""

    window: Window
    memory: Memory
    reach: timedelta
    standing: Sequence[Question]
    due: Sequence[Question]


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """An answer to one question; no margin where the model gave none."""

    read: Read
    question: Question
    margin: float | None
    probability: float = 0.0
    answer: Answer = Answer.NO
    since: datetime | None = None

    @property
    def begins(self) -> bool:
        """Return whether a yes begins with this window."""
        return self.answer is Answer.YES and self.since == self.read.window.start

    @property
    def text(self) -> str:
        """Return the question as the model read it."""
        return self.question.text_for(self.read.window.camera)


class Answers:
    """Asks the standing questions, and knows what was answered before."""

    def __init__(self, batches: Batches, questions: Sequence[Question]) -> None:
        self.batches = batches
        self.agenda = Agenda(questions)
        self.calibration = Calibration()
        self._since: dict[tuple[str, str], tuple[Answer, datetime]] = {}

    def at_end(self, ends: Sequence[tuple[Window, Memory]]) -> list[WindowAnswers]:
        """Answer what is due at the end of windows that were just remembered."""
        due = [(window, memory, self.agenda.due(window)) for window, memory in ends]
        reads = [read for each in due for read in self._reads(*each)]
        verdicts = list(self._verdicts(reads, self._focus(reads)))
        begun = [verdict for verdict in verdicts if verdict.begins]
        doubts = [Doubt(each.read.memory, each.read.reach, each.text) for each in begun]
        looks = dict(zip(map(id, begun), self._look_again(doubts), strict=True))
        return [
            WindowAnswers(
                window=window,
                findings=tuple(
                    self._finding(verdict, verdict.margin, looks.get(id(verdict)))
                    for verdict in verdicts
                    if verdict.read.window is window and verdict.margin is not None
                ),
                unanswered=tuple(
                    verdict.question.name
                    for verdict in verdicts
                    if verdict.read.window is window and verdict.margin is None
                ),
            )
            for window, _ in ends
        ]

    def weigh(self, ends: Sequence[tuple[Window, Memory]]) -> None:
        """Note in the memories what mattered to the standing questions, without answering."""
        self._focus([read for window, memory in ends for read in self._reads(window, memory, ())])

    def recall(self, finding: Finding) -> None:
        """Take up, after a restart, what was answered before."""
        key = (finding.camera, finding.question, finding.question_version)
        self.calibration.probability(key, finding.margin)
        self._since[finding.camera, finding.question] = (finding.answer, finding.since)

    def restart(self, camera: str) -> None:
        """Start the schedule and the runs of a camera again whose time has started over."""
        self.agenda.restart(camera)
        for key in [key for key in self._since if key[0] == camera]:
            del self._since[key]

    def forget(self, camera: str) -> None:
        """Let go of what was answered about a camera."""
        self.restart(camera)
        self.calibration.forget(camera)

    def _look_again(self, doubts: Sequence[Doubt]) -> list[float | None]:
        return look_again(self.batches, doubts)

    def _reads(self, window: Window, memory: Memory, due: Sequence[Question]) -> Iterator[Read]:
        concerned = [q for q in self.agenda.questions if q.concerns(window.camera)]
        for reach, questions in groupby(sorted(concerned, key=_reach), key=_reach):
            standing = list(questions)
            yield Read(window, memory, reach, standing, [q for q in standing if q in due])

    def _focus(self, reads: Sequence[Read]) -> list[frozenset[int]]:
        """Return which older chunks each read takes in full, and note what mattered.

        All standing questions of the same reach have a say in it, due or not, so that no answer
        depends on which others are asked at the same time.
        """
        focused = [frozenset[int]() for _ in reads]
        if not any(read.memory.plan.focus for read in reads):
            return focused
        deep = [nth for nth, read in enumerate(reads) if read.memory.older(read.reach)]
        said = self._ask([(reads[nth], reads[nth].standing, frozenset()) for nth in deep])
        for nth, one in zip(deep, said, strict=True):
            if isinstance(one, Exception):
                continue
            memory = reads[nth].memory
            lift, focused[nth] = focus_of(memory, reads[nth].reach, one.queries_NQHD)
            memory.mattered(lift)
        return focused

    def _verdicts(
        self, reads: Sequence[Read], focused: Sequence[frozenset[int]]
    ) -> Iterator[Verdict]:
        due = [(read, focus) for read, focus in zip(reads, focused, strict=True) if read.due]
        said = self._ask([(read, read.due, focus) for read, focus in due])
        for (read, _), one in zip(due, said, strict=True):
            failed = isinstance(one, Exception)
            margins = [nan] * len(read.due) if isinstance(one, Exception) else one.margins
            reason = str(one) if failed else "the model's answer is no number"
            for question, margin in zip(read.due, margins, strict=True):
                if isfinite(margin):
                    yield self._verdict(read, question, margin)
                    continue
                names = {"window": read.window.id, "question": question.name}
                logger.error("a question got no answer", reason=reason, **names)
                yield Verdict(read=read, question=question, margin=None)

    def _ask(
        self, reads: Sequence[tuple[Read, Sequence[Question], frozenset[int]]]
    ) -> list[Said | Failure]:
        return self.batches.ask(
            [
                (
                    [question.text_for(read.window.camera) for question in asked],
                    read.memory.view(read.reach, focus),
                )
                for read, asked, focus in reads
            ]
        )

    def _verdict(self, read: Read, question: Question, margin: float) -> Verdict:
        key = (read.window.camera, question.name, question.version)
        probability = self.calibration.probability(key, margin)
        answer = Answer.YES if probability > 0.5 else Answer.NO
        return Verdict(
            read=read,
            question=question,
            margin=margin,
            probability=probability,
            answer=answer,
            since=self._run(read.window, question.name, answer),
        )

    def _finding(self, verdict: Verdict, margin: float, second_look: float | None) -> Finding:
        read, question = verdict.read, verdict.question
        return Finding(
            window_id=read.window.id,
            camera=read.window.camera,
            question=question.name,
            question_version=question.version,
            start=read.window.start,
            end=read.window.end,
            score=verdict.probability,
            margin=margin,
            answer=verdict.answer,
            since=verdict.since or read.window.start,
            model=self.batches.speaker.name,
            memory_span=min(read.memory.span, read.reach).total_seconds(),
            second_look=second_look,
            zone=question.zone,
        )

    def _run(self, window: Window, question: str, now: Answer) -> datetime:
        """Return since when the answer has been what it is."""
        key = (window.camera, question)
        before = self._since.get(key)
        if before is None or before[0] is not now or before[1] > window.start:
            self._since[key] = (now, window.start)
        return self._since[key][1]


def _reach(question: Question) -> timedelta:
    return FOREVER if question.look_back is None else question.look_back
