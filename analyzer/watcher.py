"""The heart of the analyzer: remember a window, then answer what has come due."""

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from itertools import groupby

import structlog

from analyzer.agenda import Agenda
from analyzer.memory import Memory
from analyzer.questions import Question
from analyzer.scoring import answer, score
from analyzer.videoxl2.speaker import Speaker
from storage.errors import Unreadable
from storage.records import Answer, Finding, Window

logger = structlog.get_logger()


class Watcher:
    """A model with one memory per camera and the questions it is asked."""

    def __init__(self, speaker: Speaker, questions: Sequence[Question], horizon: timedelta) -> None:
        self.speaker = speaker
        self.agenda = Agenda(questions)
        self.horizon = horizon
        self._memories: dict[str, Memory] = {}
        self._since: dict[tuple[str, str], tuple[Answer, datetime]] = {}

    def step(self, window: Window) -> Iterator[Finding]:
        """Remember one window, then answer whatever has come due.

        A window that is remembered already is passed over; a camera whose time was set back
        starts with an empty memory.
        """
        memory = self.memory_of(window.camera)
        if memory.remembers(window):
            if not window.after_gap:
                return
            memory.clear()
            self.agenda.restart(window.camera)
        self._remember(window, memory)
        due = sorted(self.agenda.due(window), key=_reach)
        for reach, questions in groupby(due, key=_reach):
            yield from self._ask(list(questions), reach, window, memory)

    def memory_of(self, camera: str) -> Memory:
        """Return the memory of a camera, empty at first."""
        return self._memories.setdefault(camera, Memory(self.horizon))

    def _remember(self, window: Window, memory: Memory) -> None:
        seconds = memory.seconds(window)
        jpegs = [still.jpeg for still in window.stills]
        try:
            watched = self.speaker.watch(jpegs, seconds, memory.background, memory.last())
        except Unreadable as error:
            raise Unreadable(f"{window.id}: {error.reason}") from error
        if watched.corrupt:
            logger.warning("corrupt stills replaced", window=window.id, count=watched.corrupt)
        memory.append(window, watched.chunk, watched.background)

    def _ask(
        self, questions: list[Question], reach: timedelta, window: Window, memory: Memory
    ) -> Iterator[Finding]:
        held = memory.last(reach)
        margins = self.speaker.margins([question.ask for question in questions], held)
        for question, margin in zip(questions, margins, strict=True):
            yield Finding(
                window_id=window.id,
                camera=window.camera,
                question=question.name,
                question_version=question.version,
                start=window.start,
                end=window.end,
                score=score(margin),
                margin=margin,
                answer=answer(margin),
                since=self._run(window, question, answer(margin)),
                model=self.speaker.name,
                memory_span=min(memory.span, reach).total_seconds(),
            )

    def _run(self, window: Window, question: Question, now: Answer) -> datetime:
        """Return since when the answer has been what it is."""
        key = (window.camera, question.name)
        before = self._since.get(key)
        if before is None or before[0] is not now or before[1] > window.start:
            self._since[key] = (now, window.start)
        return self._since[key][1]


def _reach(question: Question) -> timedelta:
    return timedelta.max if question.look_back is None else question.look_back
