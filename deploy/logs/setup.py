"""Log lines on stderr: for eyes on a terminal, as JSON elsewhere, never with a secret in them."""

import logging
import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from deploy.logs.rate_limit import RateLimitFilter
from deploy.logs.stream import log_stream

LONG_SECRET, MEDIUM_SECRET = 16, 8
"""Characters from which on a secret is no common word: of one kind of signs, and of several."""
_CHARACTER_CLASSES = ("[a-z]", "[A-Z]", "[0-9]", "[^A-Za-z0-9]")
_USERINFO = re.compile(r"://([^:/]*):(.*)@")
_ANY_USERINFO = re.compile(r"(://[^\s:/@'\"]*:)[^\s/@'\"]+(?=@)")
_AUTHORIZATION = re.compile(r"(authorization['\"]?\s*[:=]\s*['\"]?)[^'\"\r\n]+", re.IGNORECASE)
_SECRET_KEY = (
    r"""(?:passw(?:or)?d|pwd|secret|token|key|auth)\w*(?:['"]?\s*=\s*['"]?|['"]\s*:\s*['"])"""
)
_TRUSTED_FIELDS = frozenset(
    {"process", "level", "timestamp", "camera", "rule", "question", "receiver"}
)
"""The fields of a line that hold names from the settings, or what we write ourselves."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoggingConfig:
    """How a process logs: from which level on, and what it must not show."""

    level: int = logging.INFO
    secrets: tuple[str, ...] = ()

    def __repr__(self) -> str:
        """Show no secret."""
        return f"Logging(level={self.level})"


def configure_logging(config: LoggingConfig, process: str = "") -> None:
    """Send structlog's lines, warnings, and warnings of other libraries to stderr.

    A line says which process it comes from, where that has a name. Of what libraries say again
    and again one line a minute is shown.
    """
    # Not a context variable: those do not reach the threads.
    name = {"process": process} if process else {}
    shared: list[Processor] = [
        lambda _, __, event: {**name, **event},
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        SecretRedactor(config.secrets),
    ]
    stream = log_stream()
    is_terminal = sys.stderr.isatty()
    render = structlog.dev.ConsoleRenderer() if is_terminal else structlog.processors.JSONRenderer()
    structlog.configure(
        processors=[*shared, render],
        wrapper_class=structlog.make_filtering_bound_logger(config.level),
        logger_factory=structlog.WriteLoggerFactory(stream),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[_add_left_out, *shared],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, render],
        )
    )
    handler.addFilter(RateLimitFilter())
    logging.basicConfig(level=max(config.level, logging.WARNING), handlers=[handler], force=True)
    logging.captureWarnings(True)


def _add_left_out(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """Add how many lines like this one were left out before it."""
    left_out = getattr(event["_record"], "left_out", 0)
    return {**event, "left_out": left_out} if left_out else event


class SecretRedactor:
    """Replace secrets in a log line, also in a traceback.

    A distinct secret is replaced wherever it is. One that is short, or might be a common word,
    only where secrets are: before the @ of a url, as a value in its query, after `password=`
    and the like. Names that we gave ourselves are left as they are.
    """

    def __init__(self, secrets: Iterable[str]) -> None:
        words = sorted(_spellings(secrets), key=len, reverse=True)
        self._distinct = _alternation([word for word in words if is_distinct(word)])
        self._others = _alternation([word for word in words if not is_distinct(word)])
        self._before_host = re.compile(f"(:)(?:{self._others})(?=@)")
        self._after_key = re.compile(
            rf"({_SECRET_KEY}|[?&][\w.~-]+=)(?:{self._others})(?![\w-])", re.I
        )

    def __call__(self, _: WrappedLogger, __: str, event: EventDict) -> EventDict:
        """Return the line without them."""
        return {
            name: value if name in _TRUSTED_FIELDS else self.redact(value)
            for name, value in event.items()
        }

    def redact(self, value: Any) -> Any:
        """Return a number as it is, anything else as text without a secret."""
        if isinstance(value, (int, float, type(None))):
            return value
        text = re.sub(self._distinct, "***", str(value))
        for place in (self._before_host, self._after_key, _ANY_USERINFO, _AUTHORIZATION):
            text = place.sub(r"\1***", text)
        return text


def is_distinct(secret: str) -> bool:
    """Return whether a secret can be told from common words: long, or of several kinds of signs."""
    kinds = sum(re.search(kind, secret) is not None for kind in _CHARACTER_CLASSES)
    return len(secret) >= LONG_SECRET or (len(secret) >= MEDIUM_SECRET and kinds > 1)


def _alternation(words: Iterable[str]) -> str:
    """Return a pattern for any of these; one that never matches where there are none."""
    return "|".join(map(re.escape, words)) or r"(?!)"


def _spellings(secrets: Iterable[str]) -> set[str]:
    """Return each secret and, of a url, its password as it is written and as it is meant."""
    passwords = [found[2] for secret in secrets for found in _USERINFO.finditer(secret)]
    return {*secrets, *passwords, *map(unquote, passwords)} - {""}
