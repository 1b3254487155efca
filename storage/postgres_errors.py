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

from storage.errors import (
    StorageDown,
    StorageError,
    StorageFailing,
    StorageFull,
    StorageRefused,
    StorageUnfit,
)
from storage.postgres_hosts import OLD_PRIMARY
from storage.postgres_locks import lock_holder
from storage.postgres_rights import grant_for
from storage.server_url import read_server

READ_ONLY = "25006"
_NO_RIGHTS = "42501"
_WAITED_FOR_A_LOCK = "55P03"
_CONNECTION = "08"
"""The class of errors of a connection, and of what a pooler says."""
_ATTEMPT = re.compile(r"- (?P<host>host: '.*?', port: '.*?'), hostaddr: \S+: (?P<text>.*)")
_NOISE = re.compile(r"^connection (failed|is bad): |\b(FATAL|ERROR|PANIC):  ")


class _Kind(Enum):
    """What an error is for whoever gets it."""

    FULL = "full"
    FAILING = "failing"
    NO_CONNECTION = "takes no connection now"
    CLOSED = "closed the connection"
    REFUSED = "refused"
    UNFIT = "unfit"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Case:
    """What an error is, and what to do."""

    kind: _Kind
    advice: str


def _failing(advice: str) -> _Case:
    return _Case(kind=_Kind.FAILING, advice=advice)


def _closed(advice: str) -> _Case:
    return _Case(kind=_Kind.CLOSED, advice=advice)


def _no_connection(advice: str) -> _Case:
    return _Case(kind=_Kind.NO_CONNECTION, advice=advice)


def _refused(advice: str) -> _Case:
    return _Case(kind=_Kind.REFUSED, advice=advice)


def _unfit(advice: str) -> _Case:
    return _Case(kind=_Kind.UNFIT, advice=advice)


_FULL = _Case(kind=_Kind.FULL, advice="")
_STANDBY = _failing(
    "it takes no writes, as a standby does: promote it, or name the primary or all hosts"
)
_OPTIONS = _refused("check the url's options")
_CROWDED = _no_connection("raise max_connections or the CONNECTION LIMIT, or end other sessions")
_URL = _refused("check the url, the role and its rights")
_DRIFTED = _unfit("its tables are not those of its schema")
_CORRUPT = _unfit("see the log of the server, or restore a backup")

_BY_STATE = {
    READ_ONLY: _STANDBY,
    "22023": _OPTIONS,
    "25P03": _closed("raise idle_in_transaction_session_timeout"),
    "28000": _URL,
    "28P01": _URL,
    "3D000": _URL,
    "3F000": _refused("create the schema, or name another by search_path"),
    "40001": _failing("it was changed at the same time: try again"),
    "40P01": _failing("the server ended a deadlock: try again"),
    "42703": _DRIFTED,
    "42704": _OPTIONS,
    "42P01": _DRIFTED,
    "53100": _FULL,
    "53200": _failing("try again"),
    "53300": _CROWDED,
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
    (r"too many (clients|connections)|connection slots", _CROWDED),
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
        _OPTIONS,
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
        _URL,
    ),
)
"""Each tried in turn on why no connection was made."""


def meaning(error: DBAPIError, engine: Engine) -> StorageError | None:
    """Return what an error of the driver says of the server; None where it is a bug of ours.

    What a server does not allow is StorageRefused: at a start that is StorageUnfit.
    """
    state: str = getattr(error.orig, "sqlstate", None) or ""
    place = place_of(engine.url)
    if state == _WAITED_FOR_A_LOCK:
        return lock_holder(error, engine, place)
    is_lost = error.connection_invalidated or isinstance(error, OperationalError)
    is_of_connection = is_lost and state[:2] in ("", _CONNECTION)
    case = _of_hosts(_reasons(error, engine.url)) if is_of_connection else _BY_STATE.get(state)
    told = reason_of(error, engine.url)
    if state == _NO_RIGHTS:
        case = _refused(grant_for(told, str(error.statement), engine.url.username or "its role"))
    if case is not None:
        return _named(case, place, told)
    if is_of_connection:
        return StorageDown(place, told)
    return StorageFailing(place, told) if is_lost else None


def reason_of(error: DBAPIError, url: URL) -> str:
    """Return the first line of an error, or why each of several hosts failed, without secrets."""
    return "; ".join(dict.fromkeys(each.text for each in _reasons(error, url)))


def place_of(url: URL) -> str:
    """Return a url as it may be shown: without user, password and options."""
    return read_server(url.render_as_string(hide_password=False)).place


def _named(case: _Case, place: str, reason: str) -> StorageError:
    told = f"{reason}: {case.advice}" if case.advice else reason
    match case.kind:
        case _Kind.FULL:
            return StorageFull(place)
        case _Kind.FAILING:
            return StorageFailing(place, told)
        case _Kind.NO_CONNECTION | _Kind.CLOSED:
            return StorageDown(place, told, case.kind.value)
        case _Kind.REFUSED:
            return StorageRefused(place, told)
    return StorageUnfit(place, told)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Reason:
    """Why an attempt failed, at which of several hosts."""

    host: str
    text: str


def _of_hosts(reasons: Sequence[_Reason]) -> _Case | None:
    """Return what to do of what each host needs; what one of them refuses another may allow."""
    of_host = dict[str, _Case | None]()
    for each in reasons:
        of_host[each.host] = of_host.get(each.host) or _by_text(each.text)
    cases = list(of_host.values())
    waits = [case for case in cases if case is not None and case.kind is not _Kind.REFUSED]
    if waits or None in cases:
        return waits[0] if waits else None
    return cases[0]


def _by_text(reason: str) -> _Case | None:
    return next((case for words, case in _BY_TEXT if re.search(words, reason)), None)


def _reasons(error: DBAPIError, url: URL) -> list[_Reason]:
    """Return the first line of an error, or why each address failed, without secrets."""
    lines = str(error.orig).strip().splitlines() or [type(error.orig).__name__]
    attempts = [match for line in lines if (match := _ATTEMPT.fullmatch(line))]
    found = [(match["host"], match["text"]) for match in attempts] or [("", lines[0])]
    return [_Reason(host=host, text=_cleaned(text, url)) for host, text in found]


def _cleaned(text: str, url: URL) -> str:
    text = _NOISE.sub("", text)
    # A short password may be part of a word that says something.
    secret = rf"(?<!\w){re.escape(str(url.password))}(?!\w)"
    return re.sub(secret, "***", text) if url.password else text
