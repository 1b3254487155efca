"""Stills on a message: what a receiver that asks for them is sent, and what is left out."""

import base64
import io
import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import jsonschema
import numpy as np
import pytest
import standardwebhooks
from PIL import Image

from alerts.notify.attachments import MAX_JPEG_BYTES, MAX_STILLS, attach_stills
from alerts.notify.outcomes import Delivered
from kit.alerts.webhook_receiver import SECRET, a_webhook, run_receiver

SCHEMA = json.loads((Path(__file__).parent.parent / "alerts/schemas/message.v3.json").read_text())
NAME = "20261122T080015.250000Z.jpg"
AT = "2026-11-22T08:00:15.250000+00:00"
BY_ID = UUID(int=5)


def a_jpeg(side: int, noise: bool = False) -> bytes:
    pixels = np.zeros((side, side, 3), np.uint8)
    if noise:
        pixels = np.random.default_rng(0).integers(0, 256, pixels.shape, np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "JPEG", quality=85)
    return out.getvalue()


SMALL = a_jpeg(64)


def keep(folder: Path, incident: UUID, jpeg: bytes, name: str = NAME, moment: str = "at") -> None:
    stills = folder / str(incident) / moment
    stills.mkdir(parents=True, exist_ok=True)
    (stills / name).write_bytes(jpeg)


def a_body(ids: Sequence[UUID]) -> bytes:
    return json.dumps({"data": {"incidents": [{"id": str(id)} for id in ids]}}).encode()


def attached(body: bytes, folder: Path) -> list[Any]:
    sent = json.loads(attach_stills(body, folder))
    return [incident.get("still") for incident in sent["data"]["incidents"]]


def fits_the_schema(still: dict[str, str]) -> bool:
    properties = SCHEMA["$defs"]["incident"]["properties"]["still"]
    jsonschema.validate(still, {"$defs": SCHEMA["$defs"]} | properties)
    return True


def test_still_of_the_opening_is_attached_as_it_is(tmp_path: Path) -> None:
    keep(tmp_path, BY_ID, b"\xff\xd8\xffearlier", "20261122T080000.000000Z.jpg")
    keep(tmp_path, BY_ID, SMALL)
    keep(tmp_path, BY_ID, b"\xff\xd8\xffafter", "20261122T080030.000000Z.jpg", "after")
    (still,) = attached(a_body([BY_ID]), tmp_path)
    assert fits_the_schema(still)
    assert (still["at"], still["mime"]) == (AT, "image/jpeg")
    assert base64.b64decode(still["data"], validate=True) == SMALL


@pytest.mark.parametrize("side", [640, 2000])
def test_large_still_is_made_small_enough(tmp_path: Path, side: int) -> None:
    large = a_jpeg(side, noise=True)
    assert len(large) > MAX_JPEG_BYTES
    keep(tmp_path, BY_ID, large)
    (still,) = attached(a_body([BY_ID]), tmp_path)
    jpeg = base64.b64decode(still["data"])
    assert len(jpeg) <= MAX_JPEG_BYTES
    assert fits_the_schema(still)
    with Image.open(io.BytesIO(jpeg)) as picture:
        assert 320 <= max(picture.size) <= side


BOMB = SMALL[:2] + b"\xff\xc0\x00\x11\x08\xff\xff\xff\xff\x03\x01\x11\x00\x02\x11\x00\x03\x11\x00"


@pytest.mark.parametrize(
    ("name", "jpeg"),
    [
        (NAME, b""),
        (NAME, b"GIF89a"),
        (NAME, b"\xff\xd8\xff" + b"\0" * 200_000),
        (NAME, a_jpeg(640, noise=True)[:150_000]),
        (NAME, BOMB + b"\0" * 200_000),
        ("not-an-instant.jpg", SMALL),
    ],
    ids=["empty", "no jpeg", "broken", "cut off", "65535 pixels wide", "no instant"],
)
def test_still_that_cannot_be_used_is_left_out(tmp_path: Path, name: str, jpeg: bytes) -> None:
    keep(tmp_path, BY_ID, jpeg, name)
    body = a_body([BY_ID])
    assert attach_stills(body, tmp_path) == body


@pytest.mark.parametrize(
    "body",
    [b"", b"[]", b'{"data":{"incidents":[{"id":"../../etc"}]}}', b'{"data":{"incidents":[1]}}',
     b'{"data":{"incidents":{}}}', b'{"data":{"incidents":[{"id":7}]}}'],
)  # fmt: skip
def test_body_that_names_no_incident_stays_as_it_is(tmp_path: Path, body: bytes) -> None:
    assert attach_stills(body, tmp_path) == body


def test_first_ten_incidents_get_theirs_and_those_without_none(tmp_path: Path) -> None:
    ids = [UUID(int=n) for n in range(1, 13)]
    for id in ids[1:]:
        keep(tmp_path, id, SMALL)
    stills = attached(a_body(ids), tmp_path)
    assert [still is not None for still in stills] == [False] + [True] * 9 + [False] * 2
    assert MAX_STILLS == 10


def test_what_is_sent_is_what_is_signed(tmp_path: Path) -> None:
    keep(tmp_path, BY_ID, SMALL)
    with run_receiver() as receiver:
        plain = a_webhook(receiver.url)
        asking = type(plain)(
            name="soc", url=plain.url, secrets=plain.secrets, egress=plain.egress, stills=tmp_path
        )
        for webhook in (plain, asking):
            now = datetime.now(UTC)
            assert webhook.send(BY_ID, a_body([BY_ID]), now) == Delivered(status=204)
    first, second = receiver.posts
    assert b"still" not in first.body
    sent = standardwebhooks.Webhook(SECRET).verify(second.body, second.headers)
    assert sent["data"]["incidents"][0]["still"]["at"] == AT
