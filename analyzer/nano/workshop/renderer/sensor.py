"""The effects of lens, sensor and light: night, infrared, rain, noise, shake, the clock.

Legend: H rows, W columns.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Self

import numpy as np
from numpy.random import Generator, default_rng
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter

from analyzer.nano.workshop.renderer.textures import clouds


class Light(StrEnum):
    """The light of a scene."""

    DAY = "day"
    NIGHT = "night"
    INFRARED = "infrared"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sensor:
    """The constant properties of a camera's pictures.

    `level` is the target mean of the exposure, of 255, `blur` is in pixels of a picture 128
    high, `noise` in levels of 255, `shake` a fraction of the height, `drift` of the brightness,
    `shadow` of the light that a shadow removes.
    """

    light: Light
    level: float
    gamma: float
    tint: tuple[float, float, float]
    saturation: float
    blur: float
    noise: float
    shake: float
    drift: float
    rain: float
    clock: str
    lamps_HW: np.ndarray
    shadow: float

    @classmethod
    def random(cls, r: Generator, light: Light) -> Self:
        """Return a random camera's habits."""
        dark = light is not Light.DAY
        return cls(
            light=light,
            level=r.uniform(35, 100) if dark else r.uniform(60, 160),
            gamma=r.uniform(0.8, 1.3),
            tint=tuple(r.normal(1, 0.06, 3)),
            saturation=r.uniform(0.3, 1.2) if light is Light.DAY else r.uniform(0.1, 0.7),
            blur=r.uniform(0.0, 0.9),
            noise=r.uniform(1.5, 7) if dark else r.uniform(0.3, 3.5),
            shake=r.uniform(0.002, 0.012) if r.random() < 0.15 else 0.0,
            drift=r.uniform(0, 0.08),
            rain=r.uniform(0.3, 1) if r.random() < 0.1 and light is not Light.INFRARED else 0.0,
            clock=str(r.choice(["none", "top", "bottom", "corner"])),
            lamps_HW=_lamps(r, light),
            shadow=r.uniform(0.2, 0.6) if light is Light.DAY else r.uniform(0.1, 0.35),
        )

    def lit(self, backdrop: Image.Image) -> np.ndarray:
        """Return the light on each pixel (H, W, 1) after automatic exposure."""
        lamps = Image.fromarray(self.lamps_HW).resize(backdrop.size, Image.Resampling.BICUBIC)
        light = np.asarray(lamps)[..., None]
        mean = float((np.asarray(backdrop) * light).mean())
        return light * float(np.clip(self.level / max(mean, 1), 0.5, 3))

    def expose(
        self, canvas: Image.Image, lit: np.ndarray, glow: np.ndarray | None, t: float, seed: int
    ) -> np.ndarray:
        """Return the picture as the camera sends it, uint8 (H, W, 3)."""
        width, height = canvas.size
        r = default_rng((seed, int(t * 1000)))
        if self.blur > 0.2:
            canvas = canvas.filter(ImageFilter.BoxBlur(self.blur * height / 256))
        if self.light is Light.INFRARED:
            canvas = canvas.convert("L").convert("RGB")
        elif self.light is Light.NIGHT or self.saturation < 0.9:
            canvas = ImageEnhance.Color(canvas).enhance(self.saturation)
        level = 1 + self.drift * np.sin(t / 7 + seed % 7) + 0.02 * r.normal()
        colours = np.ones(3) if self.light is Light.INFRARED else np.asarray(self.tint)
        light = np.multiply(np.asarray(canvas), lit, dtype=np.float32)
        light *= (colours * level).astype(np.float32)
        if glow is not None:
            grey = glow.mean(-1, keepdims=True) if self.light is Light.INFRARED else glow
            light += grey
        light += r.standard_normal((height, width, 1), np.float32) * self.noise
        if self.rain:
            light += self._streaks(r, height, width)
        picture = self._curve()[np.clip(light, 0, 255, out=light).astype(np.uint8)]
        if self.shake:
            dx, dy = np.rint(r.normal(0, self.shake * height, 2)).astype(int)
            picture = np.roll(picture, (dy, dx), (0, 1))
        return self._with_clock(picture, t)

    def _curve(self) -> np.ndarray:
        levels = 255 * (np.arange(256) / 255) ** self.gamma
        return levels.astype(np.uint8)

    def _streaks(self, r: Generator, height: int, width: int) -> np.ndarray:
        rain = Image.new("L", (width, height))
        pen = ImageDraw.Draw(rain)
        long = 0.06 * height
        for x, y in zip(r.uniform(0, width, 70), r.uniform(-long, height, 70), strict=True):
            pen.line([x, y, x + 0.15 * long, y + long], fill=int(70 * self.rain))
        return np.asarray(rain.filter(ImageFilter.BoxBlur(0.6)), np.float32)[..., None]

    def _with_clock(self, picture: np.ndarray, t: float) -> np.ndarray:
        if self.clock == "none":
            return picture
        height, width = picture.shape[:2]
        image = Image.fromarray(picture)
        size = max(6, height // 18)
        text = f"2026-03-01 12:{int(t) // 60 % 60:02d}:{int(t) % 60:02d}"
        x = width - 9 * size if self.clock == "corner" else size // 2
        y = height - 2 * size if self.clock == "bottom" else size // 2
        ImageDraw.Draw(image).text((x, y), text, fill=(240, 240, 240), font_size=size)
        return np.asarray(image)


def _lamps(r: Generator, light: Light) -> np.ndarray:
    """Return the light map (32, 48), float32: even by day, pools of light at night."""
    y, x = np.mgrid[:32, :48] / 32
    lit = np.ones((32, 48)) if light is Light.DAY else np.full((32, 48), r.uniform(0.18, 0.45))
    if light is Light.NIGHT:
        for _ in range(r.integers(1, 5)):
            away = ((x - r.uniform(0, 1.5)) ** 2 + (y - r.uniform(0.2, 1)) ** 2) / r.uniform(
                0.03, 0.25
            )
            lit += r.uniform(0.2, 0.6) * np.exp(-away)
    away = np.hypot(x - 0.75, y - 0.5)
    if light is Light.INFRARED:
        lit += r.uniform(0.3, 0.7) * np.exp(-((away / r.uniform(0.4, 0.8)) ** 2))
    lit *= 1 + clouds(r, 32, 48, 0.06)
    lit *= 1 - r.uniform(0, 0.35) * (away / 0.9) ** 2
    return np.clip(lit, 0.05, 2).astype(np.float32)
