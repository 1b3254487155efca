"""The reader of claims of the release before this one, as it was: it knows version 1 alone."""

import json
from datetime import datetime

from storage.errors import Unreadable
from storage.records.claims import Claim
from storage.records.records import CoverageState

STATES = (
    "ingest_down",
    "camera_down",
    "waiting",
    "analyzer_down",
    "shed",
    "corrupt",
    "analysed",
    "frozen",
    "covered",
)
_FIELDS = {"version", "camera", "start", "end", "state", "reason"}


def decode_claim(value: bytes) -> Claim:
    """Read a claim exactly: one of another version, state or with other fields is Unreadable."""
    fields = json.loads(value)
    version = fields["version"]
    if version != 1:
        then = ": upgrade longwatch, then `longwatch dead replay`" if version > 1 else ""
        raise Unreadable(f"version {version}, not 1{then}")
    if fields["state"] not in STATES:
        raise Unreadable(f"state: not one of {', '.join(STATES)}")
    if unknown := fields.keys() - _FIELDS:
        raise Unreadable(f"{len(unknown)} unknown fields")
    start = fields["start"]
    return Claim(
        camera=fields["camera"],
        start=None if start is None else datetime.fromisoformat(start),
        end=datetime.fromisoformat(fields["end"]),
        state=CoverageState(fields["state"]),
        reason=fields.get("reason", ""),
    )
