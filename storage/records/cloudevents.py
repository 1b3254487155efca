"""The envelope of a message for others: CloudEvents 1.0 in Kafka's binary mode.

The value stays what it is; the attributes stand in headers, as the CloudEvents Kafka protocol
binding 1.0.2 says. The id is the same at every replay of the same fact, so that a consumer can
leave out what it has seen.
"""

import json
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

from storage.records.topics import COVERAGE, FINDINGS, INCIDENTS

Headers = list[tuple[str, bytes]]

SCHEMAS = {
    FINDINGS: ("finding.v1.json",),
    INCIDENTS: ("incident.v1.json",),
    COVERAGE: ("coverage.v1.json", "coverage.v2.json"),
}
"""The JSON Schemas of each topic, in `storage/records/schemas`, by their version from 1 on."""

_IDS: dict[str, Callable[[dict[str, Any]], str]] = {
    FINDINGS: lambda at: f"{at['window_id']}/{at['question']}/{at['question_version']}",
    INCIDENTS: lambda at: f"{at['id']}/{at['revision']}",
    COVERAGE: lambda at: f"{at['camera']}/{at['start'] or ''}/{at['end']}/{at['state']}",
}
_TIMES: dict[str, Callable[[dict[str, Any]], str]] = {
    FINDINGS: lambda at: str(at["end"]),
    INCIDENTS: lambda at: str(at["closed_at"] or at["last_seen_at"]),
    COVERAGE: lambda at: str(at["end"]),
}


def build_headers(topic: str, key: str, value: bytes, site: str = "") -> Headers:
    """Return the headers of a message; none for what is no event, or not one of ours.

    The source is `/longwatch/SITE/cameras/NAME`, or without a site `/longwatch/cameras/NAME`.
    """
    if topic not in SCHEMAS:
        return []
    try:
        fields = json.loads(value)
        id, time = _IDS[topic](fields), _TIMES[topic](fields)
        schema = dict(enumerate(SCHEMAS[topic], 1))[fields["version"]]
    except (ValueError, KeyError, TypeError):
        return []
    source = f"/longwatch/{quote(site, safe='')}" if site else "/longwatch"
    attributes = {
        "ce_specversion": "1.0",
        "ce_id": id,
        "ce_source": f"{source}/cameras/{quote(key, safe='')}",
        "ce_type": f"longwatch.{schema.removesuffix('.json')}",
        "ce_time": time,
        "ce_subject": key,
        "ce_dataschema": f"urn:longwatch:{schema}",
        "content-type": "application/json",
    }
    return [(name, text.encode()) for name, text in attributes.items()]
