"""What can go wrong in storage.

StorageError
├── StorageBlocked      nothing can be read or written for now: wait, and try the same again
│   ├── StorageFull     the disk is full; what was written before stays readable
│   ├── StorageBusy     another process holds a lock for longer than anybody waits
│   ├── StorageFailing  the disk or the server reports an error of its own
│   ├── StorageDown     the broker or the database does not answer
│   └── StorageRefused  a server no longer allows what it allowed when we started
├── StorageUnfit        what is there cannot be used as it is configured; the text says what to do
│   ├── SchemaTooOld    it was written by an older longwatch, and is only read here
│   └── SchemaTooNew    it was written by a newer longwatch
├── LeaseLost           another process does now what this one did
├── TooLarge            one value is larger than the log takes
├── PositionMoved       another process has advanced this reader; nothing of the write was kept
├── BeyondEnd           a log ends before a position that was once read: it lost what it had
└── Unreadable          bytes that are no record
"""


class StorageError(Exception):
    """Anything that storage reports; its text is one line for a person."""


class StorageBlocked(StorageError):
    """Say that storage does not work for now: the same may be tried again.

    `kept` are the indices of the values of an append that are durable all the same, in each part
    those before the first that may not be: who tries again may leave them out.
    """

    durable_indices: frozenset[int] = frozenset()


class StorageFull(StorageBlocked):
    """Say that nothing of this write was kept because the disk is full."""

    def __init__(self, location: str) -> None:
        super().__init__(f"disk full: {location}: free some space; nothing already written is lost")


class StorageBusy(StorageBlocked):
    """Say who holds which lock, or waits for it `behind` somebody; nothing was changed."""

    def __init__(
        self,
        location: str,
        lock: str = "the write lock",
        holder: str = "another process",
        blocked_by: str = "",
    ) -> None:
        message = f"{holder} holds {lock} of {location}"
        if blocked_by:
            message = (
                f"{holder} waits for {lock} of {location} behind {blocked_by}, and others behind it"
            )
        super().__init__(f"{message}; nothing was changed, try again")


class StorageFailing(StorageBlocked):
    """Say what the disk or the server reports, and what to do; nothing was changed."""

    def __init__(self, location: str, reason: str) -> None:
        super().__init__(f"{location}: {reason}; nothing was changed")


class StorageDown(StorageBlocked):
    """Say that a server does not answer, or what it does instead."""

    def __init__(self, location: str, reason: str, symptom: str = "does not answer") -> None:
        super().__init__(f"{location} {symptom} ({reason}): longwatch waits and tries again")


class StorageRefused(StorageBlocked):
    """Say what a server refuses, and what to do; at a start that is StorageUnfit."""

    def __init__(self, location: str, reason: str) -> None:
        super().__init__(f"{location}: {reason}")
        self.location = location
        self.reason = reason


class StorageUnfit(StorageError):
    """Say what is wrong with a topic or a database, and what to do."""

    def __init__(self, location: str, reason: str) -> None:
        super().__init__(f"{location}: {reason}")


class SchemaTooOld(StorageUnfit):
    """Say how to bring a file or a database up that is only read here."""

    def __init__(self, location: str, found: str | None, known: str, upgrade: str) -> None:
        has = f"it has schema {found}" if found else "it is empty"
        super().__init__(location, f"{has}, this longwatch reads {known}: {upgrade}")


class SchemaTooNew(StorageUnfit):
    """Say that a newer longwatch has written this file."""

    def __init__(self, location: str, found: str, known: str) -> None:
        message = f"it has schema {found}, this longwatch knows up to {known}: upgrade longwatch"
        super().__init__(location, message)


class LeaseLost(StorageError):
    """Say which process has taken over; nothing of the write was kept."""

    def __init__(self, location: str, lease: str, holder: str) -> None:
        super().__init__(
            f"{location}: the lease {lease!r} ran out here and {holder} has taken it: this process"
            " ends, and stands by when it is started again"
        )


class TooLarge(StorageError):
    """Say that the log does not take a value of this size."""

    def __init__(self, location: str, size: int, limit: int) -> None:
        super().__init__(f"{location}: a value of {size} bytes, but it takes {limit} at most")


class OffsetMoved(StorageError):
    """Say that a reader no longer stands where its transaction began."""

    def __init__(self, group: str, partition: str, expected: int) -> None:
        super().__init__(f"reader {group} of {partition} no longer stands at {expected}")
        self.partition = partition


class OffsetOutOfRange(StorageError):
    """Say that a part ends at `end`, before the position where a reader goes on."""

    def __init__(self, partition: str, offset: int, end_offset: int) -> None:
        super().__init__(
            f"{partition} ends at {end_offset}, before {offset} where reading goes on: the log"
            " was replaced, or lost what it had acknowledged"
        )
        self.partition = partition
        self.end_offset = end_offset


class Unreadable(StorageError):
    """Say why some bytes are no record."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"unreadable record: {reason}")
        self.reason = reason
