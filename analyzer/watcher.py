"""The heart of the analyzer: remember windows, then answer what has come due."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import groupby
from math import isfinite, nan

import structlog

from analyzer.agenda import Agenda
from analyzer.batches import Batches, Failure, Piece
from analyzer.calibration import Calibration
from analyzer.focus import focus_of
from analyzer.memory import FOREVER, Memory, group_times
from analyzer.plan import Ledger, MemoryPlan
from analyzer.questions import Question
from analyzer.second_look import Doubt, look_again
from analyzer.videoxl2.speaker import Said, Seen, Speaker
from storage.records import Answer, Finding, Window

logger = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowAnswers:
    """What a step made of a window.

    `failure` says why it is not remembered; `unanswered` names the questions that were due and
    got no answer.
    """

    window: Window
    findings: tuple[Finding, ...] = ()
    failure: Failure | None = None
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


class Watcher:
    """A model with one memory per camera and the questions it is asked."""

    def __init__(
        self,
        speaker: Speaker,
        questions: Sequence[Question],
        plan: MemoryPlan,
        budget: Ledger | None = None,
    ) -> None:
        self.speaker = speaker
        self.batches = Batches(speaker)
        self.agenda = Agenda(questions)
        self.plan = plan
        self.budget = budget
        self._memories: dict[str, Memory] = {}
        self.calibration = Calibration()
        self._since: dict[tuple[str, str], tuple[Answer, datetime]] = {}

    def step(self, window: Window) -> tuple[Finding, ...]:
        """Remember one window, then answer whatever has come due; raise what it failed of."""
        (answers,) = self.step_all([window])
        if answers.failure is not None:
            raise answers.failure
        return answers.findings

    def step_all(self, windows: Sequence[Window]) -> list[WindowAnswers]:
        """Remember windows, those of different cameras in one pass, and answer what has come due.

        A window that is remembered already is passed over; a camera whose time was set back
        starts with an empty memory. One that cannot be read costs the others nothing. Raises
        DeviceLost.
        """
        answers = [WindowAnswers(window=window) for window in windows]
        for wave in self._waves(windows):
            kept = [nth for nth, failure in wave.items() if failure is None]
            for nth, failure in wave.items():
                answers[nth] = WindowAnswers(window=windows[nth], failure=failure)
            for nth, told in zip(kept, self._answers([windows[nth] for nth in kept]), strict=True):
                answers[nth] = told
        return answers

    def rehearse(self, windows: Sequence[Window]) -> list[Failure | None]:
        """Remember windows again, after a restart, without answering; return what failed."""
        failures: list[Failure | None] = [None] * len(windows)
        for wave in self._waves(windows):
            for nth, failure in wave.items():
                failures[nth] = failure
            if self.plan.is_choosy:
                kept = [windows[nth] for nth, failure in wave.items() if failure is None]
                self._focus([read for window in kept for read in self._reads(window, ())])
        return failures

    def forget(self, camera: str) -> None:
        """Let go of all that is known of a camera: somebody else watches it now."""
        if self._memories.pop(camera, None) is not None:
            logger.info("memory dropped", camera=camera)
        self.agenda.restart(camera)
        self.calibration.forget(camera)
        for key in [key for key in self._since if key[0] == camera]:
            del self._since[key]

    @property
    def cameras(self) -> frozenset[str]:
        """Return the cameras of which anything is remembered."""
        return frozenset(self._memories)

    def memory_of(self, camera: str) -> Memory:
        """Return the memory of a camera, empty at first."""
        if camera not in self._memories:
            self._memories[camera] = Memory(camera, self.plan, self.budget)
        return self._memories[camera]

    def recall(self, finding: Finding) -> None:
        """Take up, after a restart, what was answered before."""
        key = (finding.camera, finding.question, finding.question_version)
        self.calibration.probability(key, finding.margin)
        self._since[finding.camera, finding.question] = (finding.answer, finding.since)

    def _waves(self, windows: Sequence[Window]) -> Iterator[dict[int, Failure | None]]:
        """Look at all windows together, and remember the nth of each camera in the nth wave.

        Yield what failed of those that were not remembered already, by their numbers.
        """
        seen = self._look(windows)
        for numbers in _turns(windows):
            fresh = [nth for nth in numbers if nth in seen and self._is_fresh(windows[nth])]
            yield self._remember({nth: (windows[nth], seen[nth]) for nth in fresh})

    def _is_fresh(self, window: Window) -> bool:
        memory = self.memory_of(window.camera)
        if memory.remembers(window):
            if not window.after_gap:
                return False
            memory.clear()
            self.agenda.restart(window.camera)
        return True

    def _look(self, windows: Sequence[Window]) -> dict[int, Seen | Failure]:
        """Look at the windows that are not remembered, those of a camera as one run."""
        numbers = dict[str, list[tuple[int, Window]]]()
        for nth, window in enumerate(windows):
            numbers.setdefault(window.camera, []).append((nth, window))
        memories = [self.memory_of(camera) for camera in numbers]
        runs = list(map(_fresh_run, memories, numbers.values()))
        seen = self._see(
            [
                (memory, [window for _, window in run])
                for memory, run in zip(memories, runs, strict=True)
            ]
        )
        return {
            nth: one
            for run, of_run in zip(runs, seen, strict=True)
            for (nth, _), one in zip(run, of_run, strict=True)
        }

    def _see(self, runs: Sequence[tuple[Memory, Sequence[Window]]]) -> list[list[Seen | Failure]]:
        return self.batches.see(
            [
                ([[still.jpeg for still in window.stills] for window in run], memory.background)
                for memory, run in runs
            ]
        )

    def _remember(
        self, fresh: Mapping[int, tuple[Window, Seen | Failure]]
    ) -> dict[int, Failure | None]:
        """Read windows of different cameras into their memories; return what failed."""
        outcomes: dict[int, Failure | None] = {}
        lanes = list[tuple[int, Window, Seen, Memory]]()
        for nth, (window, seen) in fresh.items():
            outcomes[nth] = seen if isinstance(seen, Exception) else None
            if isinstance(seen, Exception):
                continue
            if seen.corrupt:
                logger.warning("corrupt stills replaced", window=window.id, count=seen.corrupt)
            memory = self.memory_of(window.camera)
            memory.turn(window.start)
            lanes += [(nth, window, seen, each) for each in memory.epochs]
        made = self.batches.read([_piece(*lane[1:]) for lane in lanes])
        for (nth, window, seen, memory), chunk in zip(lanes, made, strict=True):
            if not isinstance(chunk, Exception):
                if outcomes[nth] is None:
                    memory.append(window, seen, chunk)
            elif memory is self.memory_of(window.camera):
                outcomes[nth] = chunk
            else:
                logger.warning("not read into the next epoch", window=window.id, reason=str(chunk))
        return outcomes

    def _answers(self, windows: Sequence[Window]) -> list[WindowAnswers]:
        """Answer what is due at the end of windows that were just remembered."""
        due = [(window, self.agenda.due(window)) for window in windows]
        reads = [read for window, questions in due for read in self._reads(window, questions)]
        verdicts = list(self._verdicts(reads, self._focus(reads)))
        begun = [verdict for verdict in verdicts if verdict.begins]
        doubts = [Doubt(each.read.memory, each.read.reach, each.question.ask) for each in begun]
        looks = dict(zip(map(id, begun), look_again(self.batches, doubts), strict=True))
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
            for window in windows
        ]

    def _reads(self, window: Window, due: Sequence[Question]) -> Iterator[Read]:
        concerned = [q for q in self.agenda.questions if q.concerns(window.camera)]
        memory = self.memory_of(window.camera)
        for reach, questions in groupby(sorted(concerned, key=_reach), key=_reach):
            standing = list(questions)
            yield Read(window, memory, reach, standing, [q for q in standing if q in due])

    def _focus(self, reads: Sequence[Read]) -> list[frozenset[int]]:
        """Return which older chunks each read takes in full, and note what mattered.

        All standing questions of the same reach have a say in it, due or not, so that no answer
        depends on which others are asked at the same time.
        """
        focused = [frozenset[int]() for _ in reads]
        if not self.plan.focus:
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
                ([question.ask for question in asked], read.memory.view(read.reach, focus))
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
            model=self.speaker.name,
            memory_span=min(read.memory.span, read.reach).total_seconds(),
            second_look=second_look,
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


def _piece(window: Window, seen: Seen, memory: Memory) -> Piece:
    return seen.tokens_GVE, memory.seconds(group_times(window)), memory.behind()


def _turns(windows: Sequence[Window]) -> list[list[int]]:
    """Return the numbers of the first window of each camera, of the second, and so on."""
    turns, count = list[list[int]](), dict[str, int]()
    for nth, window in enumerate(windows):
        turn = count[window.camera] = count.get(window.camera, -1) + 1
        if turn == len(turns):
            turns.append([])
        turns[turn].append(nth)
    return turns


def _fresh_run(memory: Memory, windows: Sequence[tuple[int, Window]]) -> list[tuple[int, Window]]:
    """Return the windows of a camera that will not be remembered when their turn comes."""
    last = memory.chunks[-1].end if memory.chunks else None
    fresh = list[tuple[int, Window]]()
    for nth, window in windows:
        if last is None or window.start > last or window.after_gap:
            fresh.append((nth, window))
            last = window.end
    return fresh
