"""Places of incidents: a camera, a rule and its version, and the newest incident of each.

The index of incidents by place and beginning is walked backwards, from the newest of one place
to the newest of the place before it, so that what is older is never read.
"""

import json
from collections.abc import Collection
from datetime import datetime
from typing import Any

from sqlalchemy import (
    CTE,
    JSON,
    Alias,
    Connection,
    ScalarSelect,
    Select,
    String,
    and_,
    cast,
    func,
    literal,
    select,
)

from storage import tables
from storage.distinct import distinct_values

_INCIDENTS = tables.incidents


def newest(cameras: Select[Any], latest: datetime | None = None) -> Select[Any]:
    """Return the query for the newest incident of each place on the cameras that a query names.

    The live one of a place is its newest. With `latest`, others that began later are passed over.
    """
    here, ids = _INCIDENTS.alias(), _walk(cameras)
    chosen = func.coalesce(_live(here), here.c.id if latest is None else _last_by(latest, here))
    found = select(chosen.label("id")).select_from(ids.join(here, here.c.id == ids.c.id)).cte()
    return select(_INCIDENTS).join(found, found.c.id == _INCIDENTS.c.id)


def all_cameras() -> Select[Any]:
    """Return the query for the cameras that incidents name, in `value`."""
    return distinct_values(_INCIDENTS.c.camera)


def named(connection: Connection, cameras: Collection[str]) -> Select[Any]:
    """Return the query whose rows are cameras, in `value`; however many, it is the same text."""
    listed = json.dumps(sorted(cameras))
    if connection.dialect.name == "postgresql":
        unnested = func.json_array_elements_text(cast(literal(listed, String), JSON))
    else:
        unnested = func.json_each(listed)
    return select(unnested.table_valued("value").c.value)


def _walk(cameras: Select[Any]) -> CTE:
    """Return the CTE of the ids of the incidents that began last in each place, and a NULL."""
    each, here = cameras.subquery(), _INCIDENTS.alias()
    first = _last().where(_INCIDENTS.c.camera == each.c.value).correlate(each)
    walk = select(first.scalar_subquery().label("id")).select_from(each)
    places = walk.cte("places", recursive=True)
    of_camera = _last().where(_INCIDENTS.c.camera == here.c.camera).correlate(here)
    # A comparison of both columns at once would use the index for the rule alone.
    other_version = of_camera.where(
        _INCIDENTS.c.rule == here.c.rule, _INCIDENTS.c.rule_version < here.c.rule_version
    )
    other_rule = of_camera.where(_INCIDENTS.c.rule < here.c.rule)
    step = select(func.coalesce(other_version.scalar_subquery(), other_rule.scalar_subquery()))
    return places.union_all(step.select_from(places.join(here, here.c.id == places.c.id)))


def _last() -> Select[Any]:
    in_order = (_INCIDENTS.c.rule, _INCIDENTS.c.rule_version, _INCIDENTS.c.first_seen_at)
    return select(_INCIDENTS.c.id).order_by(*(column.desc() for column in in_order)).limit(1)


def _live(here: Alias) -> ScalarSelect[Any]:
    query = _of_place(here).where(_INCIDENTS.c.closed_at.is_(None))
    return query.scalar_subquery()


def _last_by(latest: datetime, here: Alias) -> ScalarSelect[Any]:
    query = _of_place(here).where(_INCIDENTS.c.first_seen_at <= latest)
    return query.order_by(_INCIDENTS.c.first_seen_at.desc()).limit(1).scalar_subquery()


def _of_place(here: Alias) -> Select[Any]:
    of_it = and_(
        _INCIDENTS.c.camera == here.c.camera,
        _INCIDENTS.c.rule == here.c.rule,
        _INCIDENTS.c.rule_version == here.c.rule_version,
    )
    return select(_INCIDENTS.c.id).where(of_it).correlate(here)
