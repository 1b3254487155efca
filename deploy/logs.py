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

_USERINFO = re.compile(r"://([^:/]*):(.*)@")
_SHORTEST = 3
"""A shorter password would blot out half of every line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Logging:
    """How a process logs: from which level on, and what it must not show."""

    level: int = logging.INFO
    secrets: tuple[str, ...] = ()

    def __repr__(self) -> str:
        """Show no secret."""
        return f"Logging(level={self.level})"


def configure(logs: Logging, process: str = "") -> None:
    """Send structlog's lines, warnings, and warnings of other libraries to stderr.

    A line says which process it comes from, where that has a name.
    """
    # Not a context variable: those do not reach the threads.
    name = {"process": process} if process else {}
    shared: list[Processor] = [
        lambda _, __, event: {**name, **event},
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        Redact(logs.secrets),
    ]
    eyes = sys.stderr.isatty()
    render = structlog.dev.ConsoleRenderer() if eyes else structlog.processors.JSONRenderer()
    structlog.configure(
        processors=[*shared, render],
        wrapper_class=structlog.make_filtering_bound_logger(logs.level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, render],
        )
    )
    logging.basicConfig(level=max(logs.level, logging.WARNING), handlers=[handler], force=True)
    logging.captureWarnings(True)


class Redact:
    """Blot out secrets wherever they stand in a log line, also in a traceback."""

    def __init__(self, secrets: Iterable[str]) -> None:
        self.words = tuple(sorted(_spellings(secrets), key=len, reverse=True))

    def __call__(self, _: WrappedLogger, __: str, event: EventDict) -> EventDict:
        """Return the line without them."""
        return {name: self.clean(value) for name, value in event.items()}

    def clean(self, value: Any) -> Any:
        """Return a number as it is, anything else as text without a secret."""
        if isinstance(value, (int, float, type(None))):
            return value
        text = str(value)
        for word in self.words:
            text = text.replace(word, "***")
        return text


def _spellings(secrets: Iterable[str]) -> set[str]:
    """Return each secret and, of a url, its password as it is written and as it is meant."""
    passwords = [found[2] for secret in secrets for found in _USERINFO.finditer(secret)]
    words = {*secrets, *passwords, *map(unquote, passwords)}
    return {word for word in words if len(word) >= _SHORTEST}
