"""What the errors of PostgreSQL, and of the library that connects to it, mean.

An error of a statement has an SQLSTATE (PostgreSQL's manual, appendix A). Why no connection was
made is a text of the library alone, with a line for each address that was tried.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from sqlalchemy import URL, Engine
from sqlalchemy.exc import DBAPIError, OperationalError

from storage.db.postgres.hosts import OLD_PRIMARY
from storage.db.postgres.locks import find_lock_holder
from storage.db.postgres.privileges import suggest_grant
from storage.db.postgres.server_url import split_server_url
from storage.errors import (
    StorageDown,
    StorageError,
    StorageFailing,
    StorageFull,
    StorageRefused,
    StorageUnfit,
)

READ_ONLY_TRANSACTION = "25006"
_INSUFFICIENT_PRIVILEGE = "42501"
_LOCK_NOT_AVAILABLE = "55P03"
_CONNECTION_CLASS = "08"
"""The class of errors of a connection, and of what a pooler says."""
_ATTEMPT = re.compile(r"- (?P<host>host: '.*?', port: '.*?'), hostaddr: \S+: (?P<text>.*)")
_NOISE = re.compile(r"^connection (failed|is bad): |\b(FATAL|ERROR|PANIC):  ")


class _ErrorKind(Enum):
    """What an error is for whoever gets it."""

    FULL = "full"
    FAILING = "failing"
    NO_CONNECTION = "takes no connection now"
    CLOSED = "closed the connection"
    REFUSED = "refused"
    UNFIT = "unfit"


@dataclass(frozen=True, slots=True, kw_only=True)
class _ErrorCase:
    """What an error is, and what to do."""

    kind: _ErrorKind
    advice: str


def _failing(advice: str) -> _ErrorCase:
    return _ErrorCase(kind=_ErrorKind.FAILING, advice=advice)


def _closed(advice: str) -> _ErrorCase:
    return _ErrorCase(kind=_ErrorKind.CLOSED, advice=advice)


def _no_connection(advice: str) -> _ErrorCase:
    return _ErrorCase(kind=_ErrorKind.NO_CONNECTION, advice=advice)


def _refused(advice: str) -> _ErrorCase:
    return _ErrorCase(kind=_ErrorKind.REFUSED, advice=advice)


def _unfit(advice: str) -> _ErrorCase:
    return _ErrorCase(kind=_ErrorKind.UNFIT, advice=advice)


_FULL = _ErrorCase(kind=_ErrorKind.FULL, advice="")
_STANDBY = _failing(
    "it takes no writes, as a standby does: promote it, or name the primary or all hosts"
)
_BAD_OPTIONS = _refused("check the url's options")
_TOO_MANY_CONNECTIONS = _no_connection(
    "raise max_connections or the CONNECTION LIMIT, or end other sessions"
)
_BAD_URL = _refused("check the url, the role and its rights")
_SCHEMA_MISMATCH = _unfit("its tables are not those of its schema")
_CORRUPT = _unfit("see the log of the server, or restore a backup")

_BY_STATE = {
    READ_ONLY_TRANSACTION: _STANDBY,
    "22023": _BAD_OPTIONS,
    "25P03": _closed("raise idle_in_transaction_session_timeout"),
    "28000": _BAD_URL,
    "28P01": _BAD_URL,
    "3D000": _BAD_URL,
    "3F000": _refused("create the schema, or name another by search_path"),
    "40001": _failing("it was changed at the same time: try again"),
    "40P01": _failing("the server ended a deadlock: try again"),
    "42703": _SCHEMA_MISMATCH,
    "42704": _BAD_OPTIONS,
    "42P01": _SCHEMA_MISMATCH,
    "53100": _FULL,
    "53200": _failing("try again"),
    "53300": _TOO_MANY_CONNECTIONS,
    "53400": _failing("raise the limit"),
    "57014": _failing("raise statement_timeout, or try again"),
    "57P01": _closed("somebody ended the session, or the server stops"),
    "57P02": _closed("the server crashed and starts again: see its log"),
    "57P03": _no_connection("it starts or stops"),
    "57P04": _closed("somebody drops the database"),
    "57P05": _closed("raise idle_session_timeout"),
    "58030": _failing("the server's disk fails: see the log of the server"),
    "58P01": _CORRUPT,
    "XX000": _failing("an internal error of the server: see its log"),
    "XX001": _CORRUPT,
    "XX002": _CORRUPT,
}
_BY_TEXT = (
    (r"No space left on device", _FULL),
    (r"session is read-only|server is in hot standby mode", _STANDBY),
    (r"too many (clients|connections)|connection slots", _TOO_MANY_CONNECTIONS),
    (OLD_PRIMARY, _failing("")),
    (r"no more connections allowed", _no_connection("raise max_client_conn of the pooler")),
    (
        r"query_wait_timeout",
        _no_connection("raise default_pool_size of the pooler, or see whether its server is up"),
    ),
    (r"is starting up|is shutting down|in recovery mode|not (yet )?accepting", _BY_STATE["57P03"]),
    (r"is not currently accepting", _no_connection("ALTER DATABASE ... ALLOW_CONNECTIONS true")),
    (r"could not fork|out of memory|SSL exchange", _no_connection("see the log of the server")),
    (
        r"invalid response to SSL|expected authentication request|unexpected message from server",
        _refused("what listens there is no PostgreSQL: check the url's host and port"),
    ),
    (
        r"certificate|does not support SSL|SSL error: .*(alert|version|protocol)|private key",
        _refused("check the url's sslmode and the certificates"),
    ),
    (r"pg_hba\.conf", _refused("check the url, or let the role in by pg_hba.conf")),
    (
        r"configuration parameter|value for parameter|for connection option|to set parameter",
        _BAD_OPTIONS,
    ),
    (
        r"unsupported startup parameter",
        _refused("leave it out of the url, and set it by ALTER ROLE ... SET"),
    ),
    (
        r"statement pooling mode",
        _refused("name a pool with pool_mode = transaction, or session"),
    ),
    (r"login rejected", _refused("let the role in by the pooler's auth_hba_file")),
    (r"no such user", _refused("name the role in the pooler's auth_file")),
    (
        r"authentication failed|no password supplied|does not exist|permission denied|invalid "
        r"|not permitted|channel binding|GSSAPI|authentication method",
        _BAD_URL,
    ),
)
"""Each tried in turn on why no connection was made."""


def translate_error(error: DBAPIError, engine: Engine) -> StorageError | None:
    """Return what an error of the driver says of the server; None where it is a bug of ours.

    What a server does not allow is StorageRefused: at a start that is StorageUnfit.
    """
    state: str = getattr(error.orig, "sqlstate", None) or ""
    location = server_location(engine.url)
    if state == _LOCK_NOT_AVAILABLE:
        return find_lock_holder(error, engine, location)
    is_lost = error.connection_invalidated or isinstance(error, OperationalError)
    is_of_connection = is_lost and state[:2] in ("", _CONNECTION_CLASS)
    case = (
        _case_for_hosts(_host_failures(error, engine.url))
        if is_of_connection
        else _BY_STATE.get(state)
    )
    reason = error_reason(error, engine.url)
    if state == _INSUFFICIENT_PRIVILEGE:
        case = _refused(
            suggest_grant(reason, str(error.statement), engine.url.username or "its role")
        )
    if case is not None:
        return _build_error(case, location, reason)
    if is_of_connection:
        return StorageDown(location, reason)
    return StorageFailing(location, reason) if is_lost else None


def error_reason(error: DBAPIError, url: URL) -> str:
    """Return the first line of an error, or why each of several hosts failed, without secrets."""
    return "; ".join(dict.fromkeys(each.text for each in _host_failures(error, url)))


def server_location(url: URL) -> str:
    """Return a url as it may be shown: without user, password and options."""
    return split_server_url(url.render_as_string(hide_password=False)).location


def _build_error(case: _ErrorCase, location: str, reason: str) -> StorageError:
    message = f"{reason}: {case.advice}" if case.advice else reason
    match case.kind:
        case _ErrorKind.FULL:
            return StorageFull(location)
        case _ErrorKind.FAILING:
            return StorageFailing(location, message)
        case _ErrorKind.NO_CONNECTION | _ErrorKind.CLOSED:
            return StorageDown(location, message, case.kind.value)
        case _ErrorKind.REFUSED:
            return StorageRefused(location, message)
    return StorageUnfit(location, message)


@dataclass(frozen=True, slots=True, kw_only=True)
class _HostFailure:
    """Why an attempt failed, at which of several hosts."""

    host: str
    text: str


def _case_for_hosts(failures: Sequence[_HostFailure]) -> _ErrorCase | None:
    """Return what to do of what each host needs; what one of them refuses another may allow."""
    case_by_host = dict[str, _ErrorCase | None]()
    for each in failures:
        case_by_host[each.host] = case_by_host.get(each.host) or _case_for_text(each.text)
    cases = list(case_by_host.values())
    retryable = [case for case in cases if case is not None and case.kind is not _ErrorKind.REFUSED]
    if retryable or None in cases:
        return retryable[0] if retryable else None
    return cases[0]


def _case_for_text(reason: str) -> _ErrorCase | None:
    return next((case for words, case in _BY_TEXT if re.search(words, reason)), None)


def _host_failures(error: DBAPIError, url: URL) -> list[_HostFailure]:
    """Return the first line of an error, or why each address failed, without secrets."""
    lines = str(error.orig).strip().splitlines() or [type(error.orig).__name__]
    attempts = [match for line in lines if (match := _ATTEMPT.fullmatch(line))]
    found = [(match["host"], match["text"]) for match in attempts] or [("", lines[0])]
    return [_HostFailure(host=host, text=_redact(text, url)) for host, text in found]


def _redact(text: str, url: URL) -> str:
    text = _NOISE.sub("", text)
    # A short password may be part of a word that says something.
    secret = rf"(?<!\w){re.escape(str(url.password))}(?!\w)"
    return re.sub(secret, "***", text) if url.password else text
