"""The picture while it is drawn: soft-edged patches, shadows on the ground, light that glows."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from analyzer.nano.workshop.renderer.camera import ASPECT, PinholeCamera

Paint = tuple[int, int, int]
ROUND_ENDS_FROM = 2.0
"""Pixels of a line's half width from which its ends are worth rounding."""
NEUTRAL_SHADE = 128
"""The level of a shade that changes nothing."""


@dataclass(slots=True, kw_only=True)
class DrawingStage:
    """A picture of `height` pixels that actors are drawn on, farthest first.

    `sun_XZ` is how far a shadow reaches on the ground, in metres for a metre of height.
    """

    canvas: Image.Image
    camera: PinholeCamera
    height: int
    t: float
    sun_XZ: tuple[float, float]
    shadow: Image.Image = field(init=False)
    pen: ImageDraw.ImageDraw = field(init=False)
    glow: np.ndarray | None = None

    def __post_init__(self) -> None:
        self.shadow = Image.new("L", (round(self.height * ASPECT), self.height))
        self.pen = ImageDraw.Draw(self.shadow)

    def pixels(self, world_P3: np.ndarray) -> np.ndarray:
        """Return (P, 2) pixels of points in the world."""
        return self.camera.project(world_P3)[:, :2] * self.height

    def cast(self, world_P3: np.ndarray, width: float, *, direct: float = 1.0) -> None:
        """Draw the shadow of a line through points of the world, of a width in metres."""
        along_X, along_Z = self.sun_XZ
        ground = world_P3.copy()
        ground[:, 0] += along_X * direct * world_P3[:, 1]
        ground[:, 2] += along_Z * direct * world_P3[:, 1]
        ground[:, 1] = 0
        line = [(float(x), float(y)) for x, y in self.pixels(ground)]
        metre = self.camera.scale(float(ground[0, 0]), float(ground[0, 2])) * self.height
        self.pen.line(line, fill=255, width=max(1, round(width * metre)), joint="curve")

    def puddle(self, X: float, Z: float, radius: float) -> None:
        """Darken the ground at a point of contact."""
        around = np.array(
            [[X - radius, 0, Z], [X + radius, 0, Z], [X, 0, Z - radius], [X, 0, Z + radius]]
        )
        points = self.pixels(around)
        (left, top), (right, bottom) = points.min(0), points.max(0)
        self.pen.ellipse([left, top, right, bottom], fill=255)

    def shine(self, at_2: np.ndarray, radius: float, light: Sequence[float] | np.ndarray) -> None:
        """Add light around a point of the picture, given in pixels."""
        x, y = at_2.tolist()
        width = round(self.height * ASPECT)
        if self.glow is None:
            self.glow = np.zeros((self.height, width, 3), np.float32)
        reach = int(3 * radius) + 1
        left, top = max(0, int(x) - reach), max(0, int(y) - reach)
        right, bottom = min(width, int(x) + reach + 1), min(self.height, int(y) + reach + 1)
        if left >= right or top >= bottom:
            return
        rows = np.arange(top, bottom, dtype=np.float32) + 0.5 - y
        columns = np.arange(left, right, dtype=np.float32) + 0.5 - x
        bell = np.exp(-0.5 * (rows[:, None] ** 2 + columns**2) / max(radius, 0.4) ** 2)
        self.glow[top:bottom, left:right] += bell[..., None] * np.asarray(light, np.float32)


class Patch:
    """A part of the picture, drawn `fine` times larger on nothing and then reduced."""

    def __init__(self, points_P2: np.ndarray, margin: float) -> None:
        low, high = points_P2.min(0) - margin - 1, points_P2.max(0) + margin + 1
        self.left, self.top = int(np.floor(low[0])), int(np.floor(low[1]))
        self.width = min(900, int(np.ceil(high[0])) - self.left)
        self.height = min(900, int(np.ceil(high[1])) - self.top)
        self.fine = 3 if self.height * self.width < 4000 else 2
        size = self.width * self.fine, self.height * self.fine
        self.image = Image.new("RGBA", size)
        self._pen = ImageDraw.Draw(self.image)

    def _place(self, points_P2: np.ndarray) -> list[tuple[float, float]]:
        fine, left, top = self.fine, self.left, self.top
        return [((x - left) * fine, (y - top) * fine) for x, y in points_P2.tolist()]

    def limb(self, points_P2: np.ndarray, width: float, paint: Paint) -> None:
        """Draw a thick line with round ends."""
        placed, half = self._place(points_P2), max(width * self.fine / 2, 0.7)
        thick = half > ROUND_ENDS_FROM
        joint = "curve" if thick else None
        self._pen.line(placed, fill=(*paint, 255), width=max(1, round(2 * half)), joint=joint)
        for x, y in (placed[0], placed[-1]) if thick else ():
            self._pen.ellipse([x - half, y - half, x + half, y + half], fill=(*paint, 255))

    def face(self, points_P2: np.ndarray, paint: Paint) -> None:
        """Fill a polygon."""
        self._pen.polygon(self._place(points_P2), fill=(*paint, 255))

    def disc(self, middle_2: np.ndarray, rx: float, ry: float, paint: Paint) -> None:
        """Fill an ellipse."""
        ((x, y),) = self._place(middle_2[None])
        rx, ry = rx * self.fine, ry * self.fine
        self._pen.ellipse([x - rx, y - ry, x + rx, y + ry], fill=(*paint, 255))

    def paste(self, stage: DrawingStage, shade: Image.Image, *, blur: float = 0.0) -> None:
        """Paste the patch; its colours are multiplied by the stretched `shade / NEUTRAL_SHADE`."""
        small = self.image.resize((self.width, self.height), Image.Resampling.BOX)
        if blur > 0.3:
            small = small.filter(ImageFilter.BoxBlur((blur, 0)))
        pixels = np.asarray(small)
        factor = np.asarray(shade.resize(small.size, Image.Resampling.BILINEAR), np.uint16)
        painted = np.minimum(pixels[..., :3] * factor // NEUTRAL_SHADE, 255).astype(np.uint8)
        stage.canvas.paste(Image.fromarray(painted), (self.left, self.top), small.getchannel(3))

    def cloud(self, stage: DrawingStage, grey: float, opacity: float) -> None:
        """Lay a soft grey puff on the picture."""
        rows, columns = (np.linspace(-2.2, 2.2, n) for n in (self.height, self.width))
        bell = np.exp(-0.5 * (rows[:, None] ** 2 + columns**2)) * opacity * 255
        puff = Image.new("RGB", (self.width, self.height), (int(min(grey, 255)),) * 3)
        stage.canvas.paste(puff, (self.left, self.top), Image.fromarray(bell.astype(np.uint8)))


def darker(paint: Paint, factor: float) -> Paint:
    """Return a colour times a factor."""
    red, green, blue = (int(min(255, max(0, value * factor))) for value in paint)
    return red, green, blue


def around(points_P2: np.ndarray) -> np.ndarray:
    """Return points in order around their middle."""
    away = points_P2 - points_P2.mean(0)
    ordered: np.ndarray = points_P2[np.argsort(np.arctan2(away[:, 1], away[:, 0]))]
    return ordered
