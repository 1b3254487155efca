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

from storage import tables
from storage.chain import pages
from storage.distinct import distinct_values

_INCIDENTS = tables.incidents


def newest(
    connection: Connection, cameras: Collection[str], latest: datetime | None = None
) -> list[Row[Any]]:
    """Return the rows of the newest incidents of all places on these cameras.

    The live one of a place is its newest. With `latest`, others that began later are passed over.
    """
    places = _versions(_rules(_named(connection, cameras)))
    chosen = select(func.coalesce(_live(places), _last(places, latest))).select_from(places)
    query = chosen.where(places.c.rule_version.is_not(None))
    ids: Sequence[str] = connection.execute(query).scalars().all()
    there = [id for id in ids if id is not None]
    found: list[Row[Any]] = []
    for page in pages(there):
        query = select(_INCIDENTS).where(_INCIDENTS.c.id.in_(page))
        found += connection.execute(query)
    return found


def rules_seen() -> Select[Any]:
    """Return the query for the rules that incidents name, in `rule`, and perhaps a NULL."""
    return select(_rules(distinct_values(_INCIDENTS.c.camera)).c.rule).distinct()


def _named(connection: Connection, cameras: Collection[str]) -> Select[Any]:
    """Return the query whose rows are cameras, in `value`; however many, it is the same text."""
    listed = json.dumps(sorted(cameras))
    if connection.dialect.name == "postgresql":
        unnested = func.json_array_elements_text(cast(literal(listed, String), JSON))
    else:
        unnested = func.json_each(listed)
    return select(unnested.table_valued("value").c.value)


def _rules(cameras: Select[Any]) -> CTE:
    """Return the CTE of camera and rule, the last rule first, then NULL."""
    each = cameras.subquery()
    last = _max(_INCIDENTS.c.rule, _INCIDENTS.c.camera == each.c.value)
    rules = select(each.c.value.label("camera"), last.label("rule")).cte("rules", recursive=True)
    of_it = (_INCIDENTS.c.camera == rules.c.camera, _INCIDENTS.c.rule < rules.c.rule)
    before = _max(_INCIDENTS.c.rule, *of_it)
    return rules.union_all(select(rules.c.camera, before).where(rules.c.rule.is_not(None)))


def _versions(rules: CTE) -> CTE:
    """Return the CTE of camera, rule and version, the last version first, then NULL."""
    version = _INCIDENTS.c.rule_version
    of_it = (_INCIDENTS.c.camera == rules.c.camera, _INCIDENTS.c.rule == rules.c.rule)
    last = _max(version, *of_it).label("rule_version")
    first = select(rules.c.camera, rules.c.rule, last).where(rules.c.rule.is_not(None))
    places = first.cte("places", recursive=True)
    of_it = (_INCIDENTS.c.camera == places.c.camera, _INCIDENTS.c.rule == places.c.rule)
    before = _max(version, *of_it, version < places.c.rule_version)
    step = select(places.c.camera, places.c.rule, before)
    return places.union_all(step.where(places.c.rule_version.is_not(None)))


def _max(column: ColumnElement[str], *of_it: ColumnElement[bool]) -> ScalarSelect[Any]:
    return select(func.max(column)).where(*of_it).correlate_except(_INCIDENTS).scalar_subquery()


def _live(places: CTE) -> ScalarSelect[Any]:
    return _of(places).where(_INCIDENTS.c.closed_at.is_(None)).scalar_subquery()


def _last(places: CTE, latest: datetime | None) -> ScalarSelect[Any]:
    query = _of(places).order_by(_INCIDENTS.c.first_seen_at.desc()).limit(1)
    if latest is not None:
        query = query.where(_INCIDENTS.c.first_seen_at <= latest)
    return query.scalar_subquery()


def _of(places: CTE) -> Select[Any]:
    return (
        select(_INCIDENTS.c.id)
        .where(
            _INCIDENTS.c.camera == places.c.camera,
            _INCIDENTS.c.rule == places.c.rule,
            _INCIDENTS.c.rule_version == places.c.rule_version,
        )
        .correlate_except(_INCIDENTS)
    )
