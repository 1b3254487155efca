"""Log lines on stderr: coloured on a terminal, else JSON; never with a secret."""

import logging
import sys
from dataclasses import dataclass

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from deploy.logs.rate_limit import RateLimitFilter
from deploy.logs.redaction import SecretRedactor
from deploy.logs.stream import log_stream


@dataclass(frozen=True, slots=True, kw_only=True)
class LoggingConfig:
    """The least level that a process logs, and the secrets that it must not show."""

    level: int = logging.INFO
    secrets: tuple[str, ...] = ()

    def __repr__(self) -> str:
        """Show no secret."""
        return f"LoggingConfig(level={self.level})"


def configure_logging(config: LoggingConfig, process: str = "") -> None:
    """Send structlog's lines, Python's warnings, and the warnings of libraries to stderr.

    A line names its process, if that has a name. Repeated lines of libraries appear once a minute.
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
    """Add how many lines like this one were left out since the last one."""
    left_out = getattr(event["_record"], "left_out", 0)
    return {**event, "left_out": left_out} if left_out else event
