"""Settings of one camera."""

from datetime import timedelta
from itertools import pairwise
from typing import Annotated, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    field_validator,
    model_validator,
)

from ingest.address import address_of
from storage.duration import parse_duration
from storage.polygons import Point, check_polygon
from storage.records.wire import MAX_STILLS

Duration = Annotated[timedelta, BeforeValidator(parse_duration)]

Host = Annotated[str, Field(pattern=r"^([A-Za-z0-9._-]{1,253}|[0-9A-Fa-f:.]{2,45})$")]


def _check_title(text: str) -> str:
    if not text.isprintable() or not text.strip():
        raise ValueError("write 1 to 100 characters in one line")
    return text


Title = Annotated[str, Field(max_length=100), AfterValidator(_check_title)]
"""A camera's name for people."""


class DecodeSettings(BaseModel):
    """How to decode video: the frames that are needed or all, and on which hardware."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    frames: Literal["auto", "all"] = "auto"
    hardware: Literal["none", "cuda"] = "none"


Polygon = Annotated[tuple[Point, ...], AfterValidator(check_polygon)]
"""An area of the picture: 3 to 32 corners, [x, y] as shares of its width and height."""
MAX_ZONES = 6
"""Zones of a camera at most: the analyzer has that many colours."""
_SAMPLE_POINTS = [((x + 0.5) / 32, (y + 0.5) / 18) for x in range(32) for y in range(18)]
MAX_MASKS = 16
"""Polygons of a camera's mask, at most."""


def _is_inside(polygon: Polygon, x: float, y: float) -> bool:
    """Return whether a point is inside: an odd number of sides lie to its left."""
    sides = pairwise([*polygon, polygon[0]])
    crossings = [
        x0 + (y - y0) / (y1 - y0) * (x1 - x0) < x
        for (x0, y0), (x1, y1) in sides
        if (y0 > y) != (y1 > y)
    ]
    return sum(crossings) % 2 == 1


class CameraSettings(BaseModel):
    """One camera: its address, its stills a second, and how to cut its windows.

    `zones` are named areas for questions; stored stills do not show them. `mask` are areas that are
    black on everything that is stored.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    url: SecretStr
    fps: float = Field(default=1.0, gt=0, le=30)
    window: Duration = timedelta(seconds=16)
    transport: Literal["tcp", "udp"] = "tcp"
    still_side: int = Field(default=640, ge=64, le=4096)
    jpeg_quality: int = Field(default=85, ge=30, le=95)
    redirects: list[Host] = []
    decode: DecodeSettings = DecodeSettings()
    title: Title | None = None
    zones: dict[Annotated[str, Field(pattern=r"^[a-z0-9_-]{1,64}$")], Polygon] = Field(
        default_factory=dict, max_length=MAX_ZONES
    )
    mask: tuple[Polygon, ...] = Field(default=(), max_length=MAX_MASKS)

    @property
    def stills_per_window(self) -> int:
        """Return how many stills make a window."""
        return round(self.fps * self.window.total_seconds())

    @field_validator("url")
    @classmethod
    def _check_url(cls, url: SecretStr) -> SecretStr:
        address_of(url.get_secret_value())
        return url

    @field_validator("mask")
    @classmethod
    def _check_mask(cls, mask: tuple[Polygon, ...]) -> tuple[Polygon, ...]:
        if all(any(_is_inside(each, *point) for each in mask) for point in _SAMPLE_POINTS):
            raise ValueError("hides the whole picture: leave a part free, or remove the camera")
        return mask

    @model_validator(mode="after")
    def _check_window(self) -> Self:
        stills = self.fps * self.window.total_seconds()
        whole = round(stills)
        if abs(stills - whole) > 1e-6 or whole % 4 or not 4 <= whole <= MAX_STILLS:
            raise ValueError(
                f"fps x window makes {stills:g} stills: make it 4, 8, 12, 16, ... up to "
                f"{MAX_STILLS} (fps 1 with window 16s makes 16)"
            )
        return self
