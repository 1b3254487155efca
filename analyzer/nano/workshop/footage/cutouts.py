"""People cut out of footage with soft edges, and the walks that they are seen on.

For measuring only (see `real.py`): nothing here may be taught from. Lengths are pixels of the
footage, H and W those of a cut-out.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageChops, ImageFilter

from analyzer.nano.workshop.footage.street import COARSE, RATE, Blob, Footage, count_neighbours

MARGIN = 4
MAX_STEP = 0.55
"""The longest step of a person between two stills, in heights."""
TRUNK = 0.6
"""From so far down the background can be seen between the legs."""
ALPHA_STARTS, ALPHA_FULL = 12.0, 42.0
"""Differences from the background at which a pixel starts to be, and surely is, a person."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cutout:
    """A person without the background: not premultiplied, the feet at the lower edge."""

    rgba: Image.Image
    tall: float
    slim: float
    """How wide they are for their height: less when the legs are together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FootageWalk:
    """Cut-outs of one person, `RATE` a second, and how fast they go, in heights a second."""

    cutouts: tuple[Cutout, ...]
    across: float
    down: float
    tall: float

    @property
    def standing(self) -> Cutout:
        """Return the cut-out in which the legs are closest together."""
        return min(self.cutouts, key=lambda cutout: cutout.slim)


def walks(footage: Footage, *, least: int = 5) -> tuple[FootageWalk, ...]:
    """Return the people who can be tracked alone for enough stills."""
    found: list[FootageWalk] = []
    for chain in chains(footage):
        if len(chain) >= least:
            found.append(_walk(footage, chain))
    return tuple(found)


def chains(footage: Footage) -> Iterator[list[tuple[int, Blob]]]:
    """Yield the tracks of people: the nearest of about the same height from still to still."""
    live: list[list[tuple[int, Blob]]] = []
    for still in range(len(footage.stills)):
        free = footage.unoccluded(still)
        gone, live = live, []
        for chain in gone:
            last = chain[-1][1]
            near = min(free, key=lambda blob: _difference(last, blob), default=None)
            if near is not None and _difference(last, near) < MAX_STEP:
                free.remove(near)
                live.append([*chain, (still, near)])
            else:
                yield chain
        live += [[(still, blob)] for blob in free]
    yield from live


def _difference(one: Blob, other: Blob) -> float:
    """Return how far two blobs are from being the same person, in heights."""
    (x0, y0), (x1, y1) = one.foot, other.foot
    distance = np.hypot(x1 - x0, 2 * (y1 - y0)) / one.height
    return float(distance + 2 * max(0, abs(other.height / one.height - 1) - 0.12))


def _walk(footage: Footage, chain: list[tuple[int, Blob]]) -> FootageWalk:
    (x0, y0), (x1, y1) = chain[0][1].foot, chain[-1][1].foot
    tall = float(np.mean([blob.height for _, blob in chain]))
    seconds = (len(chain) - 1) / RATE
    return FootageWalk(
        cutouts=tuple(cut(footage, still, blob) for still, blob in chain),
        across=float(x1 - x0) / seconds / tall,
        down=float(y1 - y0) / seconds / tall,
        tall=tall,
    )


def cut(footage: Footage, still: int, blob: Blob) -> Cutout:
    """Cut a blob out of its still."""
    tall, wide = blob.mask_HW.shape
    left, top = blob.left * COARSE - MARGIN, blob.top * COARSE - MARGIN
    right, bottom = left + wide * COARSE + 2 * MARGIN, top + tall * COARSE + 2 * MARGIN
    box = (left, top, right, bottom)
    picture, behind = footage.stills[still].crop(box), footage.background.crop(box)
    alpha_HW = _matte(picture, behind, footage.usual_difference.crop(box), blob)
    front = np.asarray(picture, np.float32)
    back = np.asarray(behind, np.float32)
    own_HW3 = back + (front - back) / np.maximum(alpha_HW, 0.35)[..., None]
    own_HW3 = _inner(own_HW3, alpha_HW)
    rgba = np.dstack([np.clip(own_HW3, 0, 255), alpha_HW * 255]).astype(np.uint8)
    ys, xs = np.nonzero(alpha_HW > 0.5)
    y0, y1, x0, x1 = ys.min(), ys.max() + 1, xs.min(), xs.max() + 1
    part = rgba[max(y0 - 2, 0) : y1 + 1, max(x0 - 2, 0) : x1 + 2]
    return Cutout(
        rgba=Image.fromarray(part, "RGBA"), tall=float(y1 - y0), slim=float(x1 - x0) / (y1 - y0)
    )


def _inner(rgb_HW3: np.ndarray, alpha_HW: np.ndarray) -> np.ndarray:
    """Take the colours of the edge from within, for there the background shines through."""
    solid_HW1 = (alpha_HW > 0.93)[..., None].astype(np.float32)
    weighed = np.concatenate([np.clip(rgb_HW3, 0, 255) * solid_HW1, 255 * solid_HW1], axis=2)
    blurred = Image.fromarray(weighed.astype(np.uint8), "RGBA").filter(
        ImageFilter.GaussianBlur(1.5)
    )
    around = np.asarray(blurred, np.float32)
    within_HW3 = around[..., :3] / np.maximum(around[..., 3:], 1) * 255
    edge_HW1 = (1 - solid_HW1) * np.clip(around[..., 3:] / 60, 0, 1)
    return rgb_HW3 + edge_HW1 * (within_HW3 - rgb_HW3)


def _matte(picture: Image.Image, behind: Image.Image, usual: Image.Image, blob: Blob) -> np.ndarray:
    """Return how opaque each pixel of a person is (H, W), 0..1."""
    mask_HW = np.pad(blob.mask_HW, MARGIN // COARSE)
    inside_HW = count_neighbours(count_neighbours(count_neighbours(mask_HW) > 0) == 9) == 9
    red, green, blue = ImageChops.difference(picture, behind).split()
    far = np.asarray(ImageChops.lighter(ImageChops.lighter(red, green), blue), np.float32)
    clear = ALPHA_STARTS + 3 * np.asarray(usual, np.float32)
    alpha_HW = np.clip((far - clear) / (ALPHA_FULL - ALPHA_STARTS), 0, 1)
    alpha_HW *= _fine(count_neighbours(mask_HW) > 0)
    trunk = MARGIN + int(blob.height * TRUNK)
    alpha_HW[:trunk][_fine(inside_HW)[:trunk]] = 1
    smooth = Image.fromarray((alpha_HW * 255).astype(np.uint8)).filter(
        ImageFilter.GaussianBlur(0.6)
    )
    return np.clip(np.asarray(smooth, np.float32) / 215 - 0.18, 0, 1)


def _fine(mask_HW: np.ndarray) -> np.ndarray:
    """Return a mask of a small picture for the large one."""
    return mask_HW.repeat(COARSE, axis=0).repeat(COARSE, axis=1)
