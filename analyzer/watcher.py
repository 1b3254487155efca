"""The heart of the analyzer: remember windows, then answer what has come due."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from itertools import groupby
from math import isfinite

import structlog

from analyzer.agenda import Agenda
from analyzer.calibration import Calibration, score
from analyzer.focus import focus_of
from analyzer.memory import Chunk, Memory
from analyzer.plan import Ledger, MemoryPlan
from analyzer.questions import Question
from analyzer.videoxl2.config import STILLS_PER_GROUP
from analyzer.videoxl2.kv import KVChunk
from analyzer.videoxl2.slab import HostSlab
from analyzer.videoxl2.speaker import Said, Seen, Speaker
from storage.errors import Unreadable
from storage.records import Answer, Finding, Window

logger = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Shown:
    """A window that was looked at: what it shows, and when its groups of stills began."""

    window: Window
    memory: Memory
    seen: Seen
    origin: datetime
    times: tuple[datetime, ...]


@dataclass(frozen=True, slots=True)
class Read:
    """Standing questions of one reach at the end of a window, and those of them that are due."""

    window: Window
    memory: Memory
    reach: timedelta
    standing: Sequence[Question]
    due: Sequence[Question]


class Watcher:
    """A model with one memory per camera and the questions it is asked."""

    def __init__(
        self,
        speaker: Speaker,
        questions: Sequence[Question],
        plan: MemoryPlan,
        budget: Ledger | None = None,
        slab: HostSlab | None = None,
    ) -> None:
        self.speaker = speaker
        self.agenda = Agenda(questions)
        self.plan = plan
        self.budget = budget
        self.slab = slab
        self._memories: dict[str, Memory] = {}
        self.calibration = Calibration()
        self._since: dict[tuple[str, str], tuple[Answer, datetime]] = {}

    def step(self, window: Window) -> Iterator[Finding]:
        """Remember one window, then answer whatever has come due."""
        yield from self.step_all([window])

    def step_all(self, windows: Sequence[Window]) -> Iterator[Finding]:
        """Remember windows of different cameras in one pass each, then answer what has come due.

        A window that is remembered already is passed over; a camera whose time was set back
        starts with an empty memory. Raises Unreadable, and remembers none, where one cannot be
        read.
        """
        fresh = [window for window in windows if self._is_fresh(window)]
        self._remember(fresh)
        reads = [read for window in fresh for read in self._reads(window, self.agenda.due(window))]
        yield from self._answer(reads, self._focus(reads))

    def rehearse(self, window: Window) -> None:
        """Remember a window again, after a restart, without answering."""
        if self._is_fresh(window):
            self._remember([window])
            self._focus(list(self._reads(window, ())))

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
            self._memories[camera] = Memory(camera, self.plan, self.budget, self.slab)
        return self._memories[camera]

    def _is_fresh(self, window: Window) -> bool:
        memory = self.memory_of(window.camera)
        if memory.remembers(window):
            if not window.after_gap:
                return False
            memory.clear()
            self.agenda.restart(window.camera)
        return True

    def _remember(self, windows: Sequence[Window]) -> None:
        if not windows:
            return
        shown = self._look(windows)
        for one in shown:
            if one.memory.origin not in (None, one.origin):
                self._turn(one.memory, one.origin, one.window.end - self.plan.horizon)
        chunks = self.speaker.read(
            [
                (
                    one.seen.tokens_GVE,
                    one.memory.seconds(one.times, one.origin),
                    one.memory.behind(),
                )
                for one in shown
            ]
        )
        for one, chunk in zip(shown, chunks, strict=True):
            pooled = chunk.pooled(self.plan.compression)
            one.memory.append(
                Chunk(
                    start=one.window.start,
                    end=one.window.end,
                    times=one.times,
                    tokens_GVE=one.seen.tokens_GVE,
                    pooled=pooled,
                    dense=chunk,
                ),
                one.origin,
            )
            one.memory.background = one.seen.background

    def _look(self, windows: Sequence[Window]) -> list[Shown]:
        memories = [self.memory_of(window.camera) for window in windows]
        shown = []
        for window, memory, seen in zip(
            windows, memories, self._see(windows, memories), strict=True
        ):
            if seen.corrupt:
                logger.warning("corrupt stills replaced", window=window.id, count=seen.corrupt)
            times = tuple(still.at for still in window.stills[::STILLS_PER_GROUP])
            shown.append(Shown(window, memory, seen, self.plan.origin(window.start), times))
        return shown

    def _see(self, windows: Sequence[Window], memories: Sequence[Memory]) -> list[Seen]:
        stills = [[still.jpeg for still in window.stills] for window in windows]
        grounds = [memory.background for memory in memories]
        try:
            return self.speaker.see(list(zip(stills, grounds, strict=True)))
        except Unreadable as error:
            names = ", ".join(window.id for window in windows)
            raise Unreadable(f"{names}: {error.reason}") from error

    def _turn(self, memory: Memory, origin: datetime, oldest: datetime) -> None:
        """Begin an epoch: read what is remembered again, under timestamps from a new origin."""
        fresh = Memory(memory.camera, self.plan, self.budget, self.slab)
        for old in memory.chunks:
            if old.start < oldest:
                continue
            seconds = fresh.seconds(old.times, origin)
            (chunk,) = self.speaker.read([(old.tokens_GVE, seconds, fresh.behind())])
            pooled = chunk.pooled(self.plan.compression)
            fresh.append(replace(old, pooled=pooled, dense=chunk), origin)
        memory.chunks, memory.origin = fresh.chunks, origin

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
        deep = [nth for nth, read in enumerate(reads) if read.memory.older(read.reach)]
        if not self.plan.focus:
            return focused
        said = self._ask([(reads[nth], reads[nth].standing, frozenset()) for nth in deep])
        for nth, one in zip(deep, said, strict=True):
            memory = reads[nth].memory
            lift, focused[nth] = focus_of(memory, reads[nth].reach, one.queries_NQHD)
            memory.mattered(lift)
        return focused

    def _answer(
        self, reads: Sequence[Read], focused: Sequence[frozenset[int]]
    ) -> Iterator[Finding]:
        due = [(read, focus) for read, focus in zip(reads, focused, strict=True) if read.due]
        said = self._ask([(read, read.due, focus) for read, focus in due])
        for (read, _), one in zip(due, said, strict=True):
            for question, margin in zip(read.due, one.margins, strict=True):
                if isfinite(margin):
                    yield self._finding(read, question, margin)
                else:
                    logger.error(
                        "the model's answer is no number",
                        window=read.window.id,
                        question=question.name,
                    )

    def _ask(self, reads: Sequence[tuple[Read, Sequence[Question], frozenset[int]]]) -> list[Said]:
        if not reads:
            return []
        return self.speaker.ask(
            [
                ([question.ask for question in asked], read.memory.view(read.reach, focus))
                for read, asked, focus in reads
            ]
        )

    def _finding(self, read: Read, question: Question, margin: float) -> Finding:
        window, memory = read.window, read.memory
        key = (window.camera, question.name, question.version)
        probability = self.calibration.probability(key, margin)
        answer = Answer.YES if probability > 0.5 else Answer.NO
        since = self._run(window, question.name, answer)
        begins = answer is Answer.YES and since == window.start
        return Finding(
            window_id=window.id,
            camera=window.camera,
            question=question.name,
            question_version=question.version,
            start=window.start,
            end=window.end,
            score=probability,
            margin=margin,
            answer=answer,
            since=since,
            model=self.speaker.name,
            memory_span=min(memory.span, read.reach).total_seconds(),
            second_look=self._look_again(memory, question) if begins else None,
        )

    def _look_again(self, memory: Memory, question: Question) -> float | None:
        """Return the score when the recent stills are read again in full, the past left out."""
        if memory.origin is None:
            return None
        held = list[KVChunk]()
        for chunk in memory.chunks[memory.first(_reach(question)) :][-self.plan.recent :]:
            seconds = memory.seconds(chunk.times, memory.origin)
            held += self.speaker.read([(chunk.tokens_GVE, seconds, held)])
        (margin,) = self.speaker.margins([question.ask], held)
        return score(margin) if isfinite(margin) else None

    def recall(self, finding: Finding) -> None:
        """Take up, after a restart, what was answered before."""
        key = (finding.camera, finding.question, finding.question_version)
        self.calibration.probability(key, finding.margin)
        self._since[finding.camera, finding.question] = (finding.answer, finding.since)

    def _run(self, window: Window, question: str, now: Answer) -> datetime:
        """Return since when the answer has been what it is."""
        key = (window.camera, question)
        before = self._since.get(key)
        if before is None or before[0] is not now or before[1] > window.start:
            self._since[key] = (now, window.start)
        return self._since[key][1]


def _reach(question: Question) -> timedelta:
    return timedelta.max if question.look_back is None else question.look_back
