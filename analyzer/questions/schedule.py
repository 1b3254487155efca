"""Which questions are due, in stream time: by the ends of windows, without a clock."""

from collections.abc import Sequence
from datetime import datetime

from apscheduler.triggers.interval import IntervalTrigger

from analyzer.questions.question import Question
from storage.records.records import Window


class QuestionSchedule:
    """The next due time of every question on every camera.

    A question is answered at the window end nearest to its due time, so that a window that ends
    a few milliseconds early does not delay it by a whole window.
    """

    def __init__(self, questions: Sequence[Question]) -> None:
        self.questions = questions
        self._next_due: dict[tuple[str, str], datetime] = {}
        self._triggers: dict[tuple[str, str], IntervalTrigger] = {}

    def take_due(self, window: Window) -> list[Question]:
        """Return the questions due at the end of a window, and move each to its next due time."""
        slack = (window.end - window.start) / 2
        due = []
        for question in self.questions:
            if not question.is_asked_of(window.camera):
                continue
            key = (window.camera, question.name)
            if self._next_due.get(key, window.end) <= window.end + slack:
                due.append(question)
                self._postpone(key, question, window.end, window.end + slack)
        return due

    def _postpone(
        self, key: tuple[str, str], question: Question, end: datetime, reached: datetime
    ) -> None:
        trigger = self._triggers.get(key)
        if trigger is None:
            seconds = question.every.total_seconds()
            trigger = IntervalTrigger(seconds=seconds, start_date=end, timezone="UTC")
            self._triggers[key] = trigger
        next_due = trigger.get_next_fire_time(None, reached)
        if next_due is None:
            raise AssertionError("an interval without an end always has a next time")
        self._next_due[key] = next_due

    def restart(self, camera: str) -> None:
        """Make all questions due on a camera whose time was set back."""
        for times in (self._next_due, self._triggers):
            for key in [key for key in times if key[0] == camera]:
                del times[key]
