"""Secrets taken out of log lines and of other texts."""

import re
from collections.abc import Iterable
from typing import Any
from urllib.parse import unquote

from structlog.typing import EventDict, WrappedLogger

LONG_SECRET, MEDIUM_SECRET = 16, 8
"""The least length of a distinct secret: of one character class, and of several."""
_CHARACTER_CLASSES = ("[a-z]", "[A-Z]", "[0-9]", "[^A-Za-z0-9]")
_USERINFO = re.compile(r"://([^:/]*):(.*)@")
_ANY_USERINFO = re.compile(r"(://[^\s:/@'\"]*:)[^\s/@'\"]+(?=@)")
_AUTHORIZATION = re.compile(r"(authorization['\"]?\s*[:=]\s*['\"]?)[^'\"\r\n]+", re.IGNORECASE)
_KEY_PATTERN = (
    r"""(?:passw(?:or)?d|pwd|secret|token|key|auth)\w*(?:['"]?\s*=\s*['"]?|['"]\s*:\s*['"])"""
)
_TRUSTED_FIELDS = frozenset(
    {"process", "level", "timestamp", "camera", "rule", "question", "receiver"}
)
"""The fields of a log line that contain names from the settings, or our own words."""


class SecretRedactor:
    """Replace secrets in a log line, also in a traceback.

    A distinct secret is replaced everywhere. A short one, or a common word, is replaced before
    the @ of a url, as a value in its query, and after `password=` and the like.
    """

    def __init__(self, secrets: Iterable[str]) -> None:
        words = sorted(_spellings(secrets), key=len, reverse=True)
        self._distinct = _alternation([word for word in words if is_distinct(word)])
        self._others = _alternation([word for word in words if not is_distinct(word)])
        self._before_host = re.compile(f"(:)(?:{self._others})(?=@)")
        self._after_key = re.compile(
            rf"({_KEY_PATTERN}|[?&][\w.~-]+=)(?:{self._others})(?![\w-])", re.I
        )

    def __call__(self, _: WrappedLogger, __: str, event: EventDict) -> EventDict:
        """Return the line without secrets."""
        return {
            name: value if name in _TRUSTED_FIELDS else self.redact(value)
            for name, value in event.items()
        }

    def redact(self, value: Any) -> Any:
        """Return a number as it is, anything else as text without secrets."""
        if isinstance(value, (int, float, type(None))):
            return value
        text = re.sub(self._distinct, "***", str(value))
        for pattern in (self._before_host, self._after_key, _ANY_USERINFO, _AUTHORIZATION):
            text = pattern.sub(r"\1***", text)
        return text


def is_distinct(secret: str) -> bool:
    """Return whether a secret is unlike common words: long, or of several character classes."""
    kinds = sum(re.search(kind, secret) is not None for kind in _CHARACTER_CLASSES)
    return len(secret) >= LONG_SECRET or (len(secret) >= MEDIUM_SECRET and kinds > 1)


def _alternation(words: Iterable[str]) -> str:
    """Return a pattern for any of the words; without words one that never matches."""
    return "|".join(map(re.escape, words)) or r"(?!)"


def _spellings(secrets: Iterable[str]) -> set[str]:
    """Return each secret and, of a url, its password as written and decoded."""
    passwords = [found[2] for secret in secrets for found in _USERINFO.finditer(secret)]
    return {*secrets, *passwords, *map(unquote, passwords)} - {""}
