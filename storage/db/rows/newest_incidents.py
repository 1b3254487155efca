"""Places of incidents: a camera, a rule and its version, and the newest incident of each.

The index of incidents by place is stepped through from value to value, each by a subquery of its
own, so that what is older is never read; a join would let PostgreSQL read it all.
"""

import json
from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import (
    CTE,
    JSON,
    ColumnElement,
    Connection,
    Row,
    ScalarSelect,
    Select,
    String,
    cast,
    func,
    literal,
    select,
)

from storage.db import tables
from storage.db.sql.distinct import distinct_values_query
from storage.db.sql.paging import paginate

_INCIDENTS = tables.incidents


def newest_incidents(
    connection: Connection, cameras: Collection[str], latest: datetime | None = None
) -> list[Row[Any]]:
    """Return the rows of the newest incidents of all places on these cameras.

    The live one of a place is its newest. With `latest`, others that began later are passed over.
    """
    places = _versions_cte(_rules_cte(_cameras_query(connection, cameras)))
    chosen = select(
        func.coalesce(_live_incident(places), _last_incident(places, latest))
    ).select_from(places)
    query = chosen.where(places.c.rule_version.is_not(None))
    ids: Sequence[str] = connection.execute(query).scalars().all()
    incident_ids = [id for id in ids if id is not None]
    found: list[Row[Any]] = []
    for page in paginate(incident_ids):
        query = select(_INCIDENTS).where(_INCIDENTS.c.id.in_(page))
        found += connection.execute(query)
    return found


def rules_query() -> Select[Any]:
    """Return the query for the rules that incidents name, in `rule`, and perhaps a NULL."""
    return select(_rules_cte(distinct_values_query(_INCIDENTS.c.camera)).c.rule).distinct()


def _cameras_query(connection: Connection, cameras: Collection[str]) -> Select[Any]:
    """Return the query whose rows are cameras, in `value`; however many, it is the same text."""
    listed = json.dumps(sorted(cameras))
    if connection.dialect.name == "postgresql":
        unnested = func.json_array_elements_text(cast(literal(listed, String), JSON))
    else:
        unnested = func.json_each(listed)
    return select(unnested.table_valued("value").c.value)


def _rules_cte(cameras: Select[Any]) -> CTE:
    """Return the CTE of camera and rule, the last rule first, then NULL."""
    each = cameras.subquery()
    last = _max(_INCIDENTS.c.rule, _INCIDENTS.c.camera == each.c.value)
    rules = select(each.c.value.label("camera"), last.label("rule")).cte("rules", recursive=True)
    conditions = (_INCIDENTS.c.camera == rules.c.camera, _INCIDENTS.c.rule < rules.c.rule)
    before = _max(_INCIDENTS.c.rule, *conditions)
    return rules.union_all(select(rules.c.camera, before).where(rules.c.rule.is_not(None)))


def _versions_cte(rules: CTE) -> CTE:
    """Return the CTE of camera, rule and version, the last version first, then NULL."""
    version = _INCIDENTS.c.rule_version
    conditions = (_INCIDENTS.c.camera == rules.c.camera, _INCIDENTS.c.rule == rules.c.rule)
    last = _max(version, *conditions).label("rule_version")
    first = select(rules.c.camera, rules.c.rule, last).where(rules.c.rule.is_not(None))
    places = first.cte("places", recursive=True)
    conditions = (_INCIDENTS.c.camera == places.c.camera, _INCIDENTS.c.rule == places.c.rule)
    before = _max(version, *conditions, version < places.c.rule_version)
    step = select(places.c.camera, places.c.rule, before)
    return places.union_all(step.where(places.c.rule_version.is_not(None)))


def _max(column: ColumnElement[str], *conditions: ColumnElement[bool]) -> ScalarSelect[Any]:
    return (
        select(func.max(column)).where(*conditions).correlate_except(_INCIDENTS).scalar_subquery()
    )


def _live_incident(places: CTE) -> ScalarSelect[Any]:
    return _incidents_query(places).where(_INCIDENTS.c.closed_at.is_(None)).scalar_subquery()


def _last_incident(places: CTE, latest: datetime | None) -> ScalarSelect[Any]:
    query = _incidents_query(places).order_by(_INCIDENTS.c.first_seen_at.desc()).limit(1)
    if latest is not None:
        query = query.where(_INCIDENTS.c.first_seen_at <= latest)
    return query.scalar_subquery()


def _incidents_query(places: CTE) -> Select[Any]:
    return (
        select(_INCIDENTS.c.id)
        .where(
            _INCIDENTS.c.camera == places.c.camera,
            _INCIDENTS.c.rule == places.c.rule,
            _INCIDENTS.c.rule_version == places.c.rule_version,
        )
        .correlate_except(_INCIDENTS)
    )
