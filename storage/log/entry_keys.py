"""The keys of entries as they are read: any program may write to a log."""

from functools import lru_cache

from storage.records.wire import MAX_ID

UNKNOWN_KEY = "?"
"""Replaces a key that is empty or not printable."""


@lru_cache(maxsize=10_000)
def printable_key(raw: bytes | str | None) -> str:
    """Return a key as printable text of at most MAX_ID characters, or UNKNOWN_KEY."""
    text = raw if isinstance(raw, str) else (raw or b"").decode(errors="replace")
    key = text[:MAX_ID]
    return key if key and key.isprintable() else UNKNOWN_KEY
