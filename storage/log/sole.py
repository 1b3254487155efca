"""The membership of a single reader, and the tail reader of a log that answers at once."""

from collections.abc import Mapping, Sequence
from threading import Event

from storage.log.log import Log, LogMessage, LogPage, OffsetCommit, ReadRequest


class SoleMembership:
    """The membership of the only member of a group."""

    def __init__(self, log: Log, group: str, topic: str) -> None:
        self._log = log
        self._group = group
        self._partitions = frozenset(log.partitions(topic))

    def partitions(self) -> frozenset[str]:
        """Return all partitions."""
        return self._partitions

    def generation(self, partition: str) -> int:
        """Return 1: there is no other owner."""
        return 1

    def committed(self, partition: str) -> int:
        """Return the next offset; 0 if none was ever committed."""
        return self._log.committed(self._group, partition)

    def commit(self, partition: str, offset: int, generation: int) -> None:
        """Commit the next offset."""
        self._log.commit(self._group, partition, offset)

    def append(self, messages: Sequence[LogMessage], commits: Mapping[str, OffsetCommit]) -> bool:
        """Append messages in order; return False: the offsets are not committed yet."""
        self._log.append_messages(messages)
        return False

    def keepalive(self, seconds: float) -> None:
        """Do nothing: there is no other member."""

    def close(self) -> None:
        """Do nothing: there is no other member."""


class SequentialTailReader:
    """A reader of a log that answers at once: it reads one partition after another."""

    def __init__(self, log: Log) -> None:
        self._log = log

    def read(self, requests: Mapping[str, ReadRequest]) -> list[LogPage]:
        """Return a page for each of these partitions that has new entries."""
        pages = (self._log.read(partition, *request) for partition, request in requests.items())
        return [page for page in pages if page.next_offset > page.offset]

    def wait(self, stop: Event, seconds: float) -> None:
        """Return when there are new entries, `stop` is set or time is up."""
        self._log.wait(stop, seconds)

    def close(self) -> None:
        """Do nothing: the connections are the log's."""
