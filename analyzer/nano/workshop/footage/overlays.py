"""People drawn into footage, and the canvas they are drawn on.

For measuring only (see `real.py`), never for training. Overlays touch the ground at pixels of the
footage; a canvas is the picture of a clip, `H` x `W`.
"""

from dataclasses import dataclass
from typing import Protocol, Self

import numpy as np
from PIL import Image, ImageFilter

from analyzer.nano.workshop.footage.cutouts import Cutout, FootageWalk
from analyzer.nano.workshop.footage.street import COARSE, RATE, Footage, HeightModel

H, W = 256, 384
STANDING_SPEED = 0.12
"""The speed below which a person stands, in heights per second."""
FALL_SECONDS = 0.8
"""Seconds from upright to the ground."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FootageCrop:
    """The part of the footage that a clip shows: its left upper corner and its width."""

    left: float
    top: float
    width: float

    @property
    def scale(self) -> float:
        """Return how many pixels of the canvas one of the footage is."""
        return W / self.width

    @property
    def box(self) -> tuple[float, float, float, float]:
        """Return left, top, right and bottom."""
        return self.left, self.top, self.left + self.width, self.top + self.width * H / W

    def to_canvas(self, x: float, y: float) -> tuple[float, float]:
        """Return the point of the canvas for a place of the footage."""
        return (x - self.left) * self.scale, (y - self.top) * self.scale


@dataclass(frozen=True, slots=True, kw_only=True)
class Canvas:
    """A still to draw into, and how far down the feet are of whoever is seen at a pixel."""

    rgb_HW3: np.ndarray
    feet_HW: np.ndarray
    view: FootageCrop
    heights: HeightModel

    @classmethod
    def of(cls, footage: Footage, still: int, view: FootageCrop) -> Self:
        """Return the part of a still that a view shows."""
        picture = footage.stills[still].resize((W, H), Image.Resampling.BILINEAR, box=view.box)
        left, top, right, bottom = (v / COARSE for v in view.box)
        feet = Image.fromarray(footage.feet_HW(still)).resize(
            (W, H), Image.Resampling.NEAREST, box=(left, top, right, bottom)
        )
        rgb_HW3 = np.array(picture, np.float32)
        return cls(rgb_HW3=rgb_HW3, feet_HW=np.asarray(feet), view=view, heights=footage.heights)

    def person_height(self, y: float) -> float:
        """Return how many pixels of the canvas a person is tall whose feet are at `y`."""
        return self.heights.height_at(y) * self.view.scale

    def composite(
        self, rgb_hw3: np.ndarray, alpha_hw: np.ndarray, left: float, top: float, foot: float
    ) -> None:
        """Paste a picture on the canvas, hidden by people whose feet are nearer than `foot`."""
        h, w = alpha_hw.shape
        left, top = round(left), round(top)
        x0, y0, x1, y1 = max(left, 0), max(top, 0), min(left + w, W), min(top + h, H)
        if x0 >= x1 or y0 >= y1:
            return
        rows, columns = slice(y0 - top, y1 - top), slice(x0 - left, x1 - left)
        free_hw = self._free(slice(y0, y1), slice(x0, x1), foot)
        alpha_hw1 = (alpha_hw[rows, columns] * free_hw)[..., None]
        under = self.rgb_HW3[y0:y1, x0:x1]
        under += alpha_hw1 * (rgb_hw3[rows, columns] - under)

    def _free(self, rows: slice, columns: slice, foot: float) -> np.ndarray:
        """Return the share of each pixel that no one nearer than `foot` hides, 0..1."""
        nearer = self.feet_HW[rows, columns] > foot + COARSE
        if not nearer.any():
            return np.ones(nearer.shape, np.float32)
        hidden = Image.fromarray(nearer.astype(np.uint8) * 255)
        return 1 - np.asarray(hidden.filter(ImageFilter.GaussianBlur(0.8)), np.float32) / 255

    def shadow(self, x: float, y: float, wide: float, high: float, share: float) -> None:
        """Lay a soft shadow on the ground around a place of the footage; sizes in heights."""
        (cx, cy), tall = self.view.to_canvas(x, y), self.person_height(y)
        wide, high = max(wide * tall, 1), max(high * tall, 1)
        v, u = np.mgrid[-round(2 * high) : 2 * high + 1, -round(2 * wide) : 2 * wide + 1]
        alpha = (share * np.exp(-((u / wide) ** 2) - (v / high) ** 2)).astype(np.float32)
        dark = np.full((*alpha.shape, 3), 12, np.float32)
        self.composite(dark, alpha, cx - 2 * wide, cy - 2 * high, y)


class FootageOverlay(Protocol):
    """A person or object that is drawn into footage."""

    def at(self, t: float) -> tuple[float, float] | None:
        """Return the point on the ground, None if it is absent."""
        ...

    def draw(self, canvas: Canvas, t: float) -> None:
        """Draw it; it is there."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Trajectory:
    """The positions of a person at several times, with straight lines between them."""

    times: tuple[float, ...]
    xs: tuple[float, ...]
    ys: tuple[float, ...]

    def at(self, t: float) -> tuple[float, float]:
        """Return the position."""
        return float(np.interp(t, self.times, self.xs)), float(np.interp(t, self.times, self.ys))

    def then(self, more: Self) -> "Trajectory":
        """Return the course with another after it."""
        return Trajectory(
            times=(*self.times, *more.times), xs=(*self.xs, *more.xs), ys=(*self.ys, *more.ys)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Luggage:
    """A picture of a bag, and how tall it is, in heights of a person."""

    rgba: Image.Image
    tall: float

    def draw_at(self, canvas: Canvas, x: float, y: float, *, lifted: float = 0) -> None:
        """Draw it on the ground, or lifted by a number of heights."""
        h = max(3, round(self.tall * canvas.person_height(y)))
        small = self.rgba.resize((max(3, round(self.rgba.width * h / self.rgba.height)), h))
        if lifted == 0:
            canvas.shadow(x, y - 0.03 * canvas.heights.height_at(y), 0.6 * self.tall, 0.045, 0.5)
        cx, cy = canvas.view.to_canvas(x, y - lifted * canvas.heights.height_at(y))
        pixels = np.asarray(small, np.float32)
        canvas.composite(pixels[..., :3], pixels[..., 3] / 255, cx - small.width / 2, cy - h, y)


@dataclass(frozen=True, slots=True, kw_only=True)
class FootagePerson:
    """A person cut out of the footage who walks a course, and may carry a bag or fall.

    `falls` is the time of the fall, `turn` its rotation in degrees. A standing person moves by
    `sway` heights.
    """

    walk: FootageWalk
    trajectory: Trajectory
    mirrored: bool
    tint: tuple[float, float, float] = (1, 1, 1)
    bag: Luggage | None = None
    carries_until: float = np.inf
    falls: float = np.inf
    turn: float = 90
    sway: float = 0

    def at(self, t: float) -> tuple[float, float] | None:
        """Return the position of the feet."""
        return (
            self.trajectory.at(t)
            if self.trajectory.times[0] <= t <= self.trajectory.times[-1]
            else None
        )

    def draw(self, canvas: Canvas, t: float) -> None:
        """Draw the person walking, standing or lying."""
        x, y = self.trajectory.at(t)
        ahead, behind = self.trajectory.at(t + 0.25), self.trajectory.at(t - 0.25)
        dx, dy = (ahead[i] - behind[i] for i in (0, 1))
        moving = float(np.hypot(dx, 2 * dy)) / 0.5 / canvas.heights.height_at(y) > STANDING_SPEED
        if t >= self.falls:
            self._draw_lying(canvas, t, x, y)
            return
        if not moving:
            x += self.sway * canvas.heights.height_at(y) * float(np.sin(1.7 * t + self.turn))
        mirrored = self.mirrored
        if moving and abs(self.walk.across) > STANDING_SPEED and abs(dx) > abs(dy):
            mirrored = bool((dx > 0) != (self.walk.across > 0))
        canvas.shadow(x, y - 1, 0.2, 0.045, 0.3)
        cutout = self._pose(t, moving)
        self._composite(canvas, self._sized(cutout, canvas, y, mirrored), x, y)
        if self.bag is not None and t < self.carries_until:
            reach = self.hand * canvas.heights.height_at(y)
            self.bag.draw_at(canvas, x + reach, y, lifted=0.14 * moving)

    @property
    def hand(self) -> float:
        """Return how far right of their feet they carry a bag, in heights."""
        return 0.19 if self.trajectory.xs[-1] > self.trajectory.xs[0] else -0.19

    def _pose(self, t: float, moving: bool) -> Cutout:
        if not moving:
            return self.walk.standing
        return self.walk.cutouts[int(t * RATE + self.turn) % len(self.walk.cutouts)]

    def _sized(self, cutout: Cutout, canvas: Canvas, y: float, mirrored: bool) -> Image.Image:
        scale = canvas.person_height(y) / cutout.tall
        size = [max(2, round(side * scale)) for side in cutout.rgba.size]
        if mirrored:
            return cutout.rgba.transpose(Image.Transpose.FLIP_LEFT_RIGHT).resize(size)
        return cutout.rgba.resize(size)

    def _composite(self, canvas: Canvas, rgba: Image.Image, x: float, y: float) -> None:
        """Put a picture of them on the ground."""
        (cx, cy), pixels = canvas.view.to_canvas(x, y), np.asarray(rgba, np.float32)
        colour_hw3 = pixels[..., :3] * np.array(self.tint, np.float32)
        h, w = pixels.shape[:2]
        canvas.composite(colour_hw3, pixels[..., 3] / 255, cx - w / 2, cy - h, y)

    def _draw_lying(self, canvas: Canvas, t: float, x: float, y: float) -> None:
        turn = self.turn * min(1.0, (t - self.falls) / FALL_SECONDS + 0.45)
        upright = self._sized(self.walk.standing, canvas, y, self.mirrored)
        lying = upright.rotate(turn, Image.Resampling.BICUBIC, expand=True)
        lying = lying.crop(lying.getchannel("A").point(lambda a: 255 * (a > 100)).getbbox())
        flat = 1 - 0.22 * abs(np.sin(np.radians(turn)))
        lying = lying.resize((round(lying.width * 1.06), max(2, round(lying.height * flat))))
        wide = lying.width / canvas.person_height(y)
        canvas.shadow(x, y - 0.06 * canvas.heights.height_at(y), 0.5 * wide, 0.09, 0.4)
        self._composite(canvas, lying, x, y)
