"""What can go wrong in storage.

StorageError
├── StorageFull     the disk is full; what was written before stays readable
├── SchemaTooNew    the file was written by a newer longwatch
├── PositionMoved   another process has advanced this reader; nothing of the write was kept
└── Unreadable      bytes that are no record
"""


class StorageError(Exception):
    """Anything that storage reports; its text is one line for a person."""


class StorageFull(StorageError):
    """Say that nothing of this write was kept because the disk is full."""

    def __init__(self, place: str) -> None:
        super().__init__(f"disk full: {place}: free some space; nothing already written is lost")


class SchemaTooNew(StorageError):
    """Say that a newer longwatch has written this file."""

    def __init__(self, place: str, found: str, known: str) -> None:
        super().__init__(
            f"{place} has schema {found}, this longwatch knows up to {known}: upgrade longwatch"
        )


class PositionMoved(StorageError):
    """Say that a reader no longer stands where its transaction began."""

    def __init__(self, reader: str, topic: str, expected: int) -> None:
        super().__init__(f"reader {reader} of {topic} no longer stands at {expected}")


class Unreadable(StorageError):
    """Say why some bytes are no record."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"unreadable record: {reason}")
        self.reason = reason
