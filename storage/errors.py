"""The errors of storage.

StorageError
├── StorageBlocked      storage does not work for now: wait, and retry
│   ├── StorageFull     the disk is full; earlier writes stay readable
│   ├── StorageBusy     another process holds a lock for too long
│   ├── StorageFailing  the disk or the server reports an internal error
│   ├── StorageDown     the broker or the database does not answer
│   └── StorageRefused  a server refuses an operation that it allowed at our start
├── StorageUnfit        the log or the database does not fit our settings; the text says what to do
│   ├── SchemaTooOld    an older longwatch wrote it, and this process only reads
│   └── SchemaTooNew    a newer longwatch wrote it
├── LeaseLost           another process holds the lease of this one
├── TooLarge            a value is larger than the log accepts
├── OffsetMoved         another process has advanced this group; nothing of the write was kept
├── OffsetOutOfRange    a log ends before an offset that was read: it lost entries
└── Unreadable          bytes that are no record
"""


class StorageError(Exception):
    """The root of the errors of storage; the text is one line for an operator."""


class StorageBlocked(StorageError):
    """Say that storage does not work for now: the caller may retry.

    `durable_indices` are the values of an append that are durable despite the error, in each
    partition those before the first that may not be: a retry may leave them out.
    """

    durable_indices: frozenset[int] = frozenset()


class StorageFull(StorageBlocked):
    """Say that the disk is full and nothing of this write was kept."""

    def __init__(self, location: str) -> None:
        super().__init__(f"disk full: {location}: free some space; nothing already written is lost")


class StorageBusy(StorageBlocked):
    """Say who holds which lock, or waits for it behind `blocked_by`; nothing was changed."""

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
    """Say which error the disk or the server reports; nothing was changed."""

    def __init__(self, location: str, reason: str) -> None:
        super().__init__(f"{location}: {reason}; nothing was changed")


class StorageDown(StorageBlocked):
    """Say that a server does not answer, or its `symptom`."""

    def __init__(self, location: str, reason: str, symptom: str = "does not answer") -> None:
        super().__init__(f"{location} {symptom} ({reason}): longwatch waits and tries again")


class StorageRefused(StorageBlocked):
    """Say what a server refuses, and what to do; at the start this is StorageUnfit."""

    def __init__(self, location: str, reason: str) -> None:
        super().__init__(f"{location}: {reason}")
        self.location = location
        self.reason = reason


class StorageUnfit(StorageError):
    """Say why a topic or a database cannot be used, and what to do."""

    def __init__(self, location: str, reason: str) -> None:
        super().__init__(f"{location}: {reason}")


class SchemaTooOld(StorageUnfit):
    """Say how to upgrade a file or a database that this process only reads."""

    def __init__(self, location: str, found: str | None, known: str, upgrade: str) -> None:
        schema = f"it has schema {found}" if found else "it is empty"
        super().__init__(location, f"{schema}, this longwatch reads {known}: {upgrade}")


class SchemaTooNew(StorageUnfit):
    """Say that a newer longwatch wrote this file."""

    def __init__(self, location: str, found: str, known: str) -> None:
        message = f"it has schema {found}, this longwatch knows up to {known}: upgrade longwatch"
        super().__init__(location, message)


class LeaseLost(StorageError):
    """Say which process took the lease; nothing of the write was kept."""

    def __init__(self, location: str, lease: str, holder: str) -> None:
        super().__init__(
            f"{location}: the lease {lease!r} expired here and {holder} has taken it: this process"
            " ends, and stands by when it is started again"
        )


class TooLarge(StorageError):
    """Say that the log does not accept a value of this size."""

    def __init__(self, location: str, size: int, limit: int) -> None:
        super().__init__(f"{location}: a value of {size} bytes, but it accepts {limit} at most")


class OffsetMoved(StorageError):
    """Say that the next offset of a group is no longer the expected one."""

    def __init__(self, group: str, partition: str, expected: int) -> None:
        super().__init__(f"group {group} is no longer at offset {expected} of {partition}")
        self.partition = partition


class OffsetOutOfRange(StorageError):
    """Say that a partition ends at `end_offset`, before the offset to read."""

    def __init__(self, partition: str, offset: int, end_offset: int) -> None:
        super().__init__(
            f"{partition} ends at {end_offset}, before {offset}, the next offset to read: the"
            " log was replaced, or lost acknowledged entries"
        )
        self.partition = partition
        self.end_offset = end_offset


class Unreadable(StorageError):
    """Say why bytes are no record."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"unreadable record: {reason}")
        self.reason = reason
