"""What a transaction on PostgreSQL is set to, and what each new connection is asked.

A pooler refuses or ignores the options of a connection, and in transaction mode each transaction
gets another connection of the server. So each transaction sets for itself what it relies on, in
the statement that it begins with anyway; the role and the database may be set to anything.
"""

import re
from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection

from storage.db.postgres.server_url import ServerUrl
from storage.errors import StorageUnfit

_REQUIRED_SETTINGS = {"timezone": "UTC", "datestyle": "ISO, YMD", "extra_float_digits": "1"}
"""Without these, instants and floats are read as other values than were written."""
_DEFAULT_SETTINGS = {
    "idle_in_transaction_session_timeout": "60s",
    "synchronous_commit": "on",
    # A recursive step is taken for a long one, and compiled for longer than it runs.
    "jit": "off",
}
"""What holds unless the options of the url set it."""
_OPTION = re.compile(r"(?:^|\s)(?:-c\s*|--)([\w.-]+)=((?:\\.|[^\s\\])*)")
_SCHEMA = re.compile(r'"((?:[^"]|"")*)"|([^\s,"]+)')
_SESSION_FACTS = """
SELECT pg_backend_pid(), current_user, current_setting('server_encoding'),
    current_schema(), current_setting('search_path')
"""

_TABLES_IN = """
SELECT relnamespace::regnamespace::text AS found, quote_ident(current_schema()) AS first,
    current_user AS role, current_setting('search_path') AS path
FROM pg_class WHERE oid = to_regclass('alembic_version')
"""


def url_settings(url: ServerUrl) -> dict[str, str]:
    """Return the settings that the option `options` of a url makes, `-c NAME=VALUE` each."""
    found = _OPTION.findall(url.options.get("options", ""))
    return {name.replace("-", "_").lower(): re.sub(r"\\(.)", r"\1", value) for name, value in found}


def set_local_statements(url: ServerUrl, lock_timeout: int) -> str:
    """Return the statements that set a transaction; `lock_timeout` in seconds."""
    defaults = _DEFAULT_SETTINGS | {"lock_timeout": f"{lock_timeout}s"}
    settings = _REQUIRED_SETTINGS | {
        name: value for name, value in defaults.items() if name not in url_settings(url)
    }
    return "; ".join(f"SET LOCAL {name} = '{value}'" for name, value in settings.items())


def check_session(connection: Any, url: ServerUrl) -> None:
    """Look at a new connection of psycopg; close it and raise StorageUnfit where it is unfit.

    Behind a pooler it prepares no statements: the next transaction would not find them.
    """
    try:
        problem = _problem(connection, url_settings(url))
    except BaseException:
        connection.close()
        raise
    if problem:
        connection.close()
        raise StorageUnfit(url.location, problem)


def _problem(connection: Any, expected: Mapping[str, str]) -> str | None:
    with connection.cursor() as cursor:
        pid, role, encoding, schema, path = cursor.execute(_SESSION_FACTS).fetchone()
        ignored = _ignored_settings(cursor, expected)
    connection.rollback()
    if pid != connection.info.backend_pid:
        connection.prepare_threshold = None
    return (
        _encoding_problem(encoding)
        or _options_problem(role, ignored)
        or _schema_problem(role, schema, path)
    )


def misplaced_tables_problem(connection: Connection) -> str | None:
    """Return what is wrong where the search_path leads to the tables of another schema."""
    row = connection.exec_driver_sql(_TABLES_IN).one_or_none()
    if row is None or row.found == row.first:
        return None
    return (
        f"its search_path ({row.path}) begins with schema {row.first}, but leads to the tables of"
        f" longwatch in {row.found}: ALTER ROLE {row.role} SET search_path = {row.found}, or"
        f" {row.first} alone"
    )


def _ignored_settings(cursor: Any, expected: Mapping[str, str]) -> dict[str, str]:
    """Return the values of those settings that are not as they were wanted."""
    found = {}
    for name, value in expected.items():
        (actual,) = cursor.execute("SELECT current_setting(%s)", (name,)).fetchone()
        # The server writes a value in its own way: 2000 as 2s.
        (normalized,) = cursor.execute("SELECT set_config(%s, %s, true)", (name, value)).fetchone()
        if actual != normalized:
            found[name] = actual
    return found


def _encoding_problem(encoding: str) -> str | None:
    if encoding == "UTF8":
        return None
    statement = "CREATE DATABASE ... ENCODING 'UTF8' TEMPLATE template0"
    return (
        f"its encoding is {encoding}, which has no room for all names: name one of UTF8"
        f" ({statement})"
    )


def _options_problem(role: str, ignored: Mapping[str, str]) -> str | None:
    if not ignored:
        return None
    message = ", ".join(f"{name} is {value or 'empty'}" for name, value in ignored.items())
    return (
        f"a pooler ignores the options of the url: {message}: set it by"
        f" ALTER ROLE {role} SET {next(iter(ignored))} = ..., and leave `options` out of the url"
    )


def _schema_problem(role: str, schema: str | None, path: str) -> str | None:
    """Return what is wrong where tables would not be made where the search_path begins."""
    named = [quoted.replace('""', '"') or plain.lower() for quoted, plain in _SCHEMA.findall(path)]
    first = next((each for each in named if each != "$user"), None)
    if schema is not None and schema in (role, first):
        return None
    missing = first or role
    return (
        f"its search_path ({path}) begins with schema {missing}, which is not there or not to be"
        f" used by {role}: CREATE SCHEMA {missing}, or GRANT USAGE ON SCHEMA {missing} TO {role},"
        f" or ALTER ROLE {role} SET search_path = ..."
    )
