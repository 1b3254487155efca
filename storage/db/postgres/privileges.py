"""The rights of our role on a PostgreSQL server: which are missing, and what gives them."""

import re
from collections.abc import Sequence

from sqlalchemy import Connection, text

from storage.db.tables import metadata

_PRIVILEGES = ("SELECT", "INSERT", "UPDATE", "DELETE")
_UNUSED_PRIVILEGES = {
    ("audit", "UPDATE"),
    ("acts", "UPDATE"),
    ("acts", "DELETE"),
    ("checkpoints", "UPDATE"),
}
"""What nobody does to a table; who wants may take the right away."""
_SEQUENCE_TABLE = "dead_letters"
"""The one table whose rows are numbered by the server."""
_MISSING = text(
    """
SELECT tables.name, rights.name AS needed, current_user AS role, current_schema() AS schema
FROM unnest(cast(:tables AS text[])) WITH ORDINALITY AS tables(name, place)
    CROSS JOIN unnest(cast(:rights AS text[])) AS rights(name)
WHERE NOT has_table_privilege(to_regclass(quote_ident(tables.name)), rights.name)
UNION ALL SELECT name, 'USAGE', current_user, current_schema()
FROM pg_get_serial_sequence(:numbered, 'number') AS each(name)
WHERE NOT has_sequence_privilege(name, 'USAGE')
"""
)
_MAX_LISTED_TABLES = 4
"""How many tables a line names."""
_DENIED = re.compile(r"permission denied for (table|sequence|schema|database) (\S+)")
_OWNER = re.compile(r"must be owner of \w+ (\S+)")


def missing_privileges(connection: Connection) -> str | None:
    """Return the rights that a role which writes needs and has not, and what gives them."""
    names = {
        "tables": list(metadata.tables),
        "rights": list(_PRIVILEGES),
        "numbered": _SEQUENCE_TABLE,
    }
    rows = [
        row
        for row in connection.execute(_MISSING, names)
        if (row.name, row.needed) not in _UNUSED_PRIVILEGES
    ]
    if not rows:
        return None
    kinds = (*_PRIVILEGES, "USAGE")
    missing_by_privilege = {
        kind: sorted({row.name for row in rows if row.needed == kind}) for kind in kinds
    }
    message = "; ".join(
        f"{kind} on {_format_names(names)}" for kind, names in missing_by_privilege.items() if names
    )
    role, schema = rows[0].role, rows[0].schema
    on_tables = f"GRANT {', '.join(_PRIVILEGES)} ON ALL TABLES IN SCHEMA {schema} TO {role}"
    on_sequences = f"GRANT USAGE ON ALL SEQUENCES IN SCHEMA {schema} TO {role}"
    return f"role {role} lacks {message}: {on_tables}; {on_sequences}"


def _format_names(names: Sequence[str]) -> str:
    more = len(names) - _MAX_LISTED_TABLES
    return ", ".join(names[:_MAX_LISTED_TABLES]) + (f" and {more} more" if more > 0 else "")


def suggest_grant(reason: str, statement: str, role: str) -> str:
    """Return what gives a role the right that it lacks, by the server's error and our statement."""
    denied, owner = _DENIED.search(reason), _OWNER.search(reason)
    if owner:
        return f"run `longwatch db upgrade` as the owner of {owner[1]}"
    if denied is None:
        return "check the url, the role and its rights"
    kind, name = denied.groups()
    if kind == "schema":
        grant = f"GRANT USAGE, CREATE ON SCHEMA {name} TO {role}"
        return f"{grant}, or run `longwatch db upgrade` as its owner"
    if kind == "database":
        return f"GRANT CONNECT ON DATABASE {name} TO {role}"
    verb = statement.split(maxsplit=1)[0].upper() if statement.strip() else ""
    right = verb if verb in _PRIVILEGES else ", ".join(_PRIVILEGES)
    return f"GRANT {right} ON {kind.upper()} {name} TO {role}"
