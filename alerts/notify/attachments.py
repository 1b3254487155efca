"""The stills of incidents as attachments of a message, for receivers that ask for them.

They are read when a message is sent, and are not stored with it. A still that is missing, damaged
or too large is left out, and the message is sent without it.
"""

import base64
import io
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

from storage.records.records import EvidenceMoment

MAX_STILLS = 10
"""How many incidents of a message get a still, from the first on."""
MAX_JPEG_BYTES = 100_000
_MAX_FILE_BYTES = 16 * 2**20
_MAX_PIXELS = 4096 * 4096
_SIDES, _QUALITY = (1280, 960, 640, 480, 320), 75
_MAGIC = b"\xff\xd8\xff"
_FILE_TIME_FORMAT = "%Y%m%dT%H%M%S.%fZ"


def attach_stills(body: bytes, folder: Path) -> bytes:
    """Return a message with `still` in its first incidents, or unchanged if there are none.

    `folder` contains `<incident id>/at/*.jpg`; the last one shows the opening.
    """
    try:
        message = json.loads(body)
        attached = [_attach(each, folder) for each in message["data"]["incidents"][:MAX_STILLS]]
    except (ValueError, KeyError, TypeError):
        return body
    if not any(attached):
        return body
    return json.dumps(message, separators=(",", ":"), ensure_ascii=False).encode()


def _attach(incident: dict[str, Any], folder: Path) -> bool:
    """Add the still of an incident; return whether there is one."""
    still = latest_still(folder / str(UUID(str(incident["id"]))) / EvidenceMoment.AT)
    if still is not None:
        incident["still"] = still
    return still is not None


def latest_still(folder: Path) -> dict[str, str] | None:
    """Return the last still of a folder: its instant, and its JPEG in base64."""
    for path in sorted(folder.glob("*.jpg"), reverse=True):
        try:
            at = datetime.strptime(path.stem, _FILE_TIME_FORMAT).replace(tzinfo=UTC)
            jpeg = _read_small_jpeg(path)
        except (OSError, ValueError):
            continue
        if jpeg is not None:
            data = base64.b64encode(jpeg).decode()
            return {"at": at.isoformat(), "mime": "image/jpeg", "data": data}
    return None


def _read_small_jpeg(path: Path) -> bytes | None:
    """Return a JPEG file, scaled down to MAX_JPEG_BYTES; None if it is none."""
    if path.stat().st_size > _MAX_FILE_BYTES:
        return None
    jpeg = path.read_bytes()
    if not jpeg.startswith(_MAGIC):
        return None
    return jpeg if len(jpeg) <= MAX_JPEG_BYTES else _scale_down(jpeg)


def _scale_down(jpeg: bytes) -> bytes | None:
    """Return a smaller JPEG; None if no size is small enough."""
    from PIL import Image  # noqa: PLC0415  # most messages have no still

    try:
        with Image.open(io.BytesIO(jpeg), formats=["JPEG"]) as image:
            if image.width * image.height > _MAX_PIXELS:
                return None
            picture = image.convert("RGB")
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        return None
    for side in _SIDES:
        picture.thumbnail((side, side))
        out = io.BytesIO()
        picture.save(out, "JPEG", quality=_QUALITY)
        if out.tell() <= MAX_JPEG_BYTES:
            return out.getvalue()
    return None
