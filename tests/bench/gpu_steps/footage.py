"""JPEG stills as a camera makes them: a soft picture under sensor noise, no two the same bytes."""

import io
from collections.abc import Callable
from functools import cache

import torch
import torch.nn.functional as F
from PIL import Image

Jpeg = Callable[[int], bytes]
"""The JPEG of the still with a number."""
PICTURES = 32
NOISE = 6.0
QUALITY = 85
COMMENT = b"\xff\xfe\x00\x06"
"""The marker of a comment of four bytes."""


@cache
def pictures(width: int, height: int, count: int = PICTURES) -> tuple[bytes, ...]:
    """Return different JPEGs of one size."""
    random = torch.Generator().manual_seed(0)
    noise = torch.randn(3, height, width, generator=random) * NOISE
    return tuple(_jpeg(width, height, noise, random) for _ in range(count))


def _jpeg(width: int, height: int, noise: torch.Tensor, random: torch.Generator) -> bytes:
    coarse = torch.rand(1, 3, 24, 40, generator=random) * 255
    soft = F.interpolate(coarse, (height, width), mode="bilinear")[0]
    shift = int(torch.randint(height, (), generator=random))
    noisy = (soft + noise.roll(shift, dims=1)).clamp(0, 255)
    file = io.BytesIO()
    picture = Image.fromarray(noisy.permute(1, 2, 0).byte().numpy())
    picture.save(file, "JPEG", quality=QUALITY)
    return file.getvalue()


def footage(width: int, height: int, count: int = PICTURES) -> Jpeg:
    """Return a source of stills; a comment in each makes its bytes its own."""
    made = pictures(width, height, count)

    def jpeg(number: int) -> bytes:
        plain = made[number % len(made)]
        return plain[:2] + COMMENT + number.to_bytes(4, "big") + plain[2:]

    return jpeg
