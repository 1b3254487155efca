"""Reading on in all parts of the log that an analyzer owns, of several topics, at once."""

from collections.abc import Iterable, Mapping
from threading import Event
from typing import Protocol

from storage.errors import BeyondEnd
from storage.log import Log, Page, Want


class Feed(Protocol):
    """One part that is read on."""

    part: str

    def want(self) -> Want | None:
        """Return what to read on; None for nothing, by now."""

    def take(self, page: Page) -> None:
        """Take what was read."""

    def go_back(self, log: Log, error: BeyondEnd) -> None:
        """Choose where to read on in a log that lost what it had; `want` returns it."""


class Intake:
    """One follower of the log for all parts, so that whatever comes ends a wait."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._follower = log.follow()

    def read(self, feeds: Iterable[Feed]) -> list[Page]:
        """Read on in parts that want something, as far as it is there; return what came."""
        by_part = {feed.part: feed for feed in feeds}
        pages = self._pages(by_part)
        for page in pages:
            by_part[page.part].take(page)
        return pages

    def wait(self, stop: Event, seconds: float) -> None:
        """Return when something came in what was read last, `stop` is set, or time is over."""
        self._follower.wait(stop, seconds)

    def close(self) -> None:
        """Let go of the connections."""
        self._follower.close()

    def _pages(self, by_part: Mapping[str, Feed]) -> list[Page]:
        for _ in by_part:  # each may have to go back once
            try:
                return self._follower.read(_wanted(by_part.values()))
            except BeyondEnd as error:
                if error.part not in by_part:
                    raise
                by_part[error.part].go_back(self._log, error)
        return self._follower.read(_wanted(by_part.values()))


def _wanted(feeds: Iterable[Feed]) -> dict[str, Want]:
    wants = ((feed.part, feed.want()) for feed in feeds)
    return {part: want for part, want in wants if want is not None}
