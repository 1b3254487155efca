"""What a log needs if one process reads it: it owns every partition, and every read is quick."""

from collections.abc import Mapping, Sequence
from threading import Event

from storage.log.log import Log, LogMessage, LogPage, OffsetCommit, ReadRequest


class SoleMembership:
    """The share of a reader that has no like."""

    def __init__(self, log: Log, group: str, topic: str) -> None:
        self._log = log
        self._group = group
        self._partitions = frozenset(log.partitions(topic))

    def partitions(self) -> frozenset[str]:
        """Return all parts."""
        return self._partitions

    def generation(self, partition: str) -> int:
        """Return 1: nobody else owns it, ever."""
        return 1

    def committed(self, partition: str) -> int:
        """Return the position where the reader goes on; 0 when it never committed."""
        return self._log.committed(self._group, partition)

    def commit(self, partition: str, offset: int, generation: int) -> None:
        """Keep the position where the reader goes on."""
        self._log.commit(self._group, partition, offset)

    def append(self, messages: Sequence[LogMessage], commits: Mapping[str, OffsetCommit]) -> bool:
        """Append messages in order; return False: the positions are to be committed next."""
        self._log.append_messages(messages)
        return False

    def keepalive(self, seconds: float) -> None:
        """Do nothing: there is nobody who could take over."""

    def close(self) -> None:
        """Do nothing: there is nobody who could take over."""


class SequentialTailReader:
    """A follower of a log that is quick to tell what is there: it reads one part after another."""

    def __init__(self, log: Log) -> None:
        self._log = log

    def read(self, requests: Mapping[str, ReadRequest]) -> list[LogPage]:
        """Return a page for each of these parts in which anything is there by now."""
        pages = (self._log.read(partition, *request) for partition, request in requests.items())
        return [page for page in pages if page.next_offset > page.offset]

    def wait(self, stop: Event, seconds: float) -> None:
        """Return when something was appended, `stop` is set, or the time is over."""
        self._log.wait(stop, seconds)

    def close(self) -> None:
        """Do nothing: there are no connections of its own."""
