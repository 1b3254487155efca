"""A database with years behind it: many incidents that are over, and all that each of them left."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Connection, Engine, insert, text

from alerts.dispatch.grouping import NotificationPolicy
from alerts.rules.rule import Rule
from kit.alerts.routing import an_open_incident
from kit.storage.fixtures import START
from storage.db import tables
from storage.records.notifications import group_id

CAMERAS = ("dock", "yard", *(f"camera-{number}" for number in range(3)))
"""Those of the past; what is measured happens on the same ones."""
RULE = Rule(name="bag-left", question="bag", above=0.8, below=0.5, notify=("soc",))
HISTORY_END = START - timedelta(days=1)
"""The past ends here; it had an incident a minute."""
INTERVAL = timedelta(minutes=30 * 24 * 60) / 1500
"""How long an interval of coverage is: 1,500 make a month."""
_EPOCH = datetime(1970, 1, 1, tzinfo=START.tzinfo)


@dataclass(frozen=True, slots=True, kw_only=True)
class _SqlDialect:
    """How a database makes rows by itself: of one number each, `n` from 0."""

    numbers: str
    instant: str
    padded: str
    true: str
    json: str
    blob: str

    def at(self, seconds: str) -> str:
        """Return the instant of so many seconds since the epoch."""
        return self.instant.format(seconds)

    def id(self, kind: int, number: str) -> str:
        """Return a uuid, the same for the same kind and number."""
        return f"'{kind:08x}-0000-4000-8000-' || {self.padded.format(f'({number})')}"


_SQLITE = _SqlDialect(
    numbers="(WITH RECURSIVE numbers(n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM numbers"
    " WHERE n + 1 < {}) SELECT n FROM numbers)",
    instant="(strftime('%Y-%m-%d %H:%M:%S', {}, 'unixepoch') || '.000000')",
    padded="substr('000000000000' || {}, -12)",
    true="1",
    json="{}",
    blob="zeroblob(500)",
)
_POSTGRES = _SqlDialect(
    numbers="(SELECT n FROM generate_series(0, {} - 1) AS numbers(n))",
    instant="to_timestamp({})",
    padded="lpad({}::text, 12, '0')",
    true="true",
    json="({})::json",
    blob=r"'\x00'::bytea",
)
_CASES = " ".join(f"WHEN {number} THEN '{camera}'" for number, camera in enumerate(CAMERAS))
_CAMERA = f"CASE n % {len(CAMERAS)} {_CASES} END"


def fill_history(
    engine: Engine,
    incidents: int,
    policy: NotificationPolicy,
    rule: Rule = RULE,
    intervals: int | None = None,
) -> None:
    """Write so many incidents, resolved and dismissed, as if each had run its course.

    Of each: two findings, three entries on the trail, three moments of evidence, two notices and
    two deliveries. The digests of the trail are none that verify. Of each camera so many
    intervals of coverage, else one for each of its incidents.
    """
    dialect = _POSTGRES if engine.dialect.name == "postgresql" else _SQLITE
    with engine.begin() as connection:
        connection.execute(insert(tables.groups), _groups(policy))
        if incidents:
            _write(connection, dialect, incidents, rule)
        each = incidents // len(CAMERAS) if intervals is None else intervals
        if each:
            _write_coverage(connection, dialect, each)
    if engine.dialect.name == "postgresql":
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(text("VACUUM ANALYZE"))


def _groups(policy: NotificationPolicy) -> list[dict[str, object]]:
    found = []
    for camera in CAMERAS:
        labels = policy.group_labels(an_open_incident(camera=camera), ["soc"])["soc"]
        fields = {"id": str(group_id("soc", labels)), "receiver": "soc", "labels": labels}
        found.append(fields | {"number": 10_000_000, "camera": camera})
    return found


def _write(connection: Connection, dialect: _SqlDialect, count: int, rule: Rule) -> None:
    numbers = dialect.numbers.format(count)
    began = int((HISTORY_END - _EPOCH).total_seconds()) - 60 * count
    at, id = dialect.at, dialect.id
    incident, delivery = id(1, "n"), id(2, "2 * n + k")
    begin = f"{began} + 60 * n"
    finding = f"'{rule.question}/' || n || '/' || k"
    twice = f"{numbers} AS numbers CROSS JOIN (SELECT 0 AS k UNION ALL SELECT 1) AS times"
    thrice = twice.replace(") AS times", " UNION ALL SELECT 2) AS times")
    moment = "CASE k WHEN 0 THEN 'before' WHEN 1 THEN 'at' ELSE 'after' END"
    group = f"(SELECT id FROM groups WHERE receiver = 'soc' AND camera = {_CAMERA})"
    behind = f"""'["{rule.question}/' || n || '/0", "{rule.question}/' || n || '/1"]'"""
    is_dismissed = "n % 10 = n / 10 % 10"
    serial = "2 * n + k + 1"
    statements = [
        f"""INSERT INTO findings (id, window_id, camera, question, question_version, start, "end",
            score, margin, answer, since, model, memory_span, incidents)
        SELECT {finding}, 'w' || n, {_CAMERA}, '{rule.question}', 'q1', {at(begin + " + 16 * k")},
            {at(begin + " + 16 * k + 16")}, 0.9, 1.6, 'yes', {at(begin)}, 'nano:0123abcd', 64.0, 1
        FROM {twice}""",
        f"""INSERT INTO incidents (id, camera, rule, rule_version, severity, state, first_seen_at,
            opened_at, last_seen_at, closed_at, evidence, revision)
        SELECT {incident}, {_CAMERA}, '{rule.name}', '{rule.version}', 'medium',
            CASE WHEN {is_dismissed} THEN 'dismissed' ELSE 'resolved' END, {at(begin)},
            CASE WHEN {is_dismissed} THEN NULL ELSE {at(begin)} END, {at(begin + " + 16")},
            {at(begin + " + 32")}, {dialect.json.format(behind)}, 3
        FROM {numbers} AS numbers""",
        f"""INSERT INTO audit (number, incident_id, revision, entry, digest)
        SELECT 3 * n + k + 1, {incident}, k + 1, '{{"who": "rule", "note": "{"-" * 400}"}}',
            '{"0" * 64}' FROM {thrice}""",
        f"""INSERT INTO evidence (incident_id, moment, window_id, digest, settled_at)
        SELECT {incident}, {moment}, 'w' || n, '{"0" * 64}', {at(begin + " + 20")}
        FROM {thrice}""",
        f"""INSERT INTO deliveries (id, group_id, number, receiver, state, attempts, next_at, body,
            tried_at, serial)
        SELECT {delivery}, {group}, {serial}, 'soc',
            CASE WHEN n % 500 = 0 THEN 'exhausted' ELSE 'delivered' END, 1, {at(begin)},
            {dialect.blob}, {at(begin + " + 1")}, {serial} FROM {twice}""",
        f"""INSERT INTO delivery_incidents (delivery_id, incident_id, revision)
        SELECT {delivery}, {incident}, k + 2 FROM {twice}""",
        f"""INSERT INTO notices (incident_id, revision, receiver, group_id, kind, state, why,
            delivery_id, is_current)
        SELECT {incident}, k + 2, 'soc', {group},
            CASE k WHEN 0 THEN 'opened' ELSE 'resolved' END,
            CASE WHEN n % 20 < 2 THEN 'muted' ELSE 'told' END,
            CASE WHEN n % 20 < 2 THEN 'silenced' END,
            CASE WHEN n % 20 < 2 THEN NULL ELSE {delivery} END, NOT {dialect.true}
        FROM {twice}""",
    ]
    for statement in statements:
        _run(connection, dialect, statement)


def _write_coverage(connection: Connection, dialect: _SqlDialect, each: int) -> None:
    last, step, at = (
        int((HISTORY_END - _EPOCH).total_seconds()),
        INTERVAL.total_seconds(),
        dialect.at,
    )
    place = f"n / {len(CAMERAS)}"
    start = f"{last} - {step} * ({each} - {place})"
    statement = f"""INSERT INTO coverage (camera, start, "end", state)
        SELECT {_CAMERA}, {at(start)}, {at(f"{start} + {step}")},
            CASE {place} % 2 WHEN 0 THEN 'analysed' ELSE 'camera_down' END
        FROM {dialect.numbers.format(each * len(CAMERAS))} AS numbers"""
    _run(connection, dialect, statement)


def _run(connection: Connection, dialect: _SqlDialect, statement: str) -> None:
    connection.exec_driver_sql(statement.replace("%", "%%") if dialect is _POSTGRES else statement)
