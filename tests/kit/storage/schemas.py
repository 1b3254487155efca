"""The JSON Schemas of storage/records/schemas, as the adapters of the records generate them.

`python -m kit.storage.schemas`, run in tests/, writes them.
"""

import json
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter
from pydantic.json_schema import GenerateJsonSchema
from pydantic_core import CoreSchema, core_schema

from storage.records import claims, cloudevents, wire

FOLDER = Path(cloudevents.__file__).parent / "schemas"
_INSTANTS = "Instants are of the years 1 to 9999 in UTC"
_CLOUDEVENT = "Also read as the `data` of a structured CloudEvent of type longwatch."
_CLAIM = "What became of an interval of a camera, as somebody claims it, version"
_CLAIM_FIELDS = {
    "start": "Null: from where the ledger stands",
    "reason": "Why, where that is known",
}

Described = tuple[TypeAdapter[Any], str, str, dict[str, str]]
SCHEMAS: dict[str, Described] = {
    "finding.v1": (
        wire.FINDING,
        "What the model answered about a window, version 1",
        f"`start` and `since` are not after `end`. {_CLOUDEVENT}finding.v1. {_INSTANTS};"
        " at most 64 KiB",
        {
            "window_id": "camera@start of the window",
            "question_version": "Changes with the wording of the question",
            "start": "First still of the window",
            "end": "Last still of the window",
            "score": "Calibrated probability of yes",
            "margin": "Logit of yes less logit of no",
            "since": "Since when the answer has been this",
            "model": "Name and digest of the model",
            "memory_span": "Seconds that the answer looked back on",
            "second_look": "Score of the recent stills alone, when a yes begins",
            "zone": "The camera's zone that the question is about; absent for the whole picture",
        },
    ),
    "incident.v1": (
        wire.INCIDENT,
        "An incident as one revision of it stands, version 1",
        f"Opened at and closed at are set as the state says. {_INSTANTS}",
        {
            "evidence": "Findings behind it",
            "reason": "The latest known cause of a health incident",
        },
    ),
    "coverage.v1": (
        claims.CLAIM,
        f"{_CLAIM} 1",
        f"`start` is before `end`. {_CLOUDEVENT}coverage.v1. {_INSTANTS}; at most 64 KiB",
        _CLAIM_FIELDS,
    ),
    "coverage.v2": (
        claims.LATER_CLAIM,
        f"{_CLAIM} 2",
        "For states that version 1 has not. A reader that does not know `state` takes `base`."
        f" `start` is before `end`. {_CLOUDEVENT}coverage.v2. {_INSTANTS}; at most 64 KiB",
        {
            **_CLAIM_FIELDS,
            "state": "stream_broken, overloaded, moved, or one of a later longwatch",
            "base": "The known state that stands for it",
        },
    ),
}


class _Plain(GenerateJsonSchema):
    """Schemas without titles and defaults: an absent field is absent."""

    def default_schema(self, schema: core_schema.WithDefaultSchema) -> dict[str, Any]:
        return self.generate_inner(schema["schema"])

    def field_title_should_be_set(self, schema: CoreSchema) -> bool:
        return False


def generate(name: str) -> dict[str, Any]:
    """Return the JSON Schema of a version of a record."""
    adapter, title, description, fields = SCHEMAS[name]
    found = adapter.json_schema(mode="validation", by_alias=True, schema_generator=_Plain)
    kinds = found.get("$defs", {})
    properties: dict[str, Any] = {"version": {"const": int(name[-1])}}
    for field, schema in found["properties"].items():
        kind = kinds[schema["$ref"].rpartition("/")[2]] if "$ref" in schema else schema
        described = {"description": fields[field]} if field in fields else {}
        properties[field] = described | (
            {"enum": kind["enum"]} if "enum" in kind else dict(sorted(kind.items(), key=_order))
        )
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": title,
        "description": description,
        "type": "object",
        "required": ["version", *found["required"]],
        "additionalProperties": found["additionalProperties"],
        "properties": properties,
    }


def _order(item: tuple[str, Any]) -> int:
    return -1 if item[0] == "type" else 0


if __name__ == "__main__":
    for each in SCHEMAS:
        (FOLDER / f"{each}.json").write_text(json.dumps(generate(each), indent=2) + "\n")
