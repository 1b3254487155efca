"""The key of an entry as it is read: anybody may write to a log."""

from functools import lru_cache

from storage.records.wire import MAX_ID

UNKNOWN_KEY = "?"
"""The key of an entry whose own key none of ours can be."""


@lru_cache(maxsize=10_000)
def printable_key(found: bytes | str | None) -> str:
    """Return a key in printable text of at most MAX_ID characters, or STRANGER."""
    text = found if isinstance(found, str) else (found or b"").decode(errors="replace")
    key = text[:MAX_ID]
    return key if key and key.isprintable() else UNKNOWN_KEY
