"""Decode JPEGs to stills of the model's size: on threads, ahead of time, or on a GPU.

The aspect ratio is not preserved. With torchvision (the extra `gpu`), nvJPEG decodes on a GPU;
threads decode with Pillow what it refuses.

Legend: N stills, H W pixels, C colours, h w pixels of a picture in its original size.
"""

import io
import os
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import groupby
from typing import TypeAlias

import numpy as np
import structlog
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from storage.errors import Unreadable

MAX_PREPARED_WINDOWS = 16
"""Most windows decoded ahead of time."""
MAX_THREADS = 16
"""Most threads, and never more than cores."""
RESIZE_BATCH = 16
"""Pictures resized together on a GPU, in float32 of their full size."""

DecodeBatch: TypeAlias = Callable[[list[Tensor]], list[Tensor]]
"""Decodes JPEGs, uint8 on the host, to (3, h, w) on a GPU; RuntimeError if one is refused."""

logger = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodedStills:
    """The stills of a window, uint8 on the model's device, and how many were replaced."""

    levels_NCHW: Tensor
    corrupt: int


class StillDecoder:
    """Decodes windows in batches; `prepare` starts threads on the next windows.

    `on_card` decodes on the device; without it threads decode everything.
    """

    def __init__(
        self, height: int, width: int, device: torch.device, on_card: DecodeBatch | None = None
    ) -> None:
        self._size = height, width
        self._device = device
        self._on_card = on_card
        self._pool = ThreadPoolExecutor(
            min(MAX_THREADS, len(os.sched_getaffinity(0))), thread_name_prefix="decode"
        )
        self._prepared: dict[tuple[bytes, ...], list[Future[np.ndarray | None]]] = {}
        self._has_warned = False

    @property
    def can_decode_ahead(self) -> bool:
        """Return whether to prepare windows: not on a CPU, whose cores the model needs."""
        return self._device.type != "cpu" and self._on_card is None

    @property
    def prepared_count(self) -> int:
        """Return the number of prepared windows that were not decoded yet."""
        return len(self._prepared)

    def prepare(self, jpegs: Sequence[bytes]) -> None:
        """Start to decode a window; the oldest beyond MAX_PREPARED_WINDOWS is dropped."""
        if self._on_card or tuple(jpegs) in self._prepared:
            return
        if len(self._prepared) >= MAX_PREPARED_WINDOWS:
            oldest = next(iter(self._prepared))
            for future in self._prepared.pop(oldest):
                future.cancel()
        self._prepared[tuple(jpegs)] = self._submit(jpegs)

    def decode(self, windows: Sequence[Sequence[bytes]]) -> list[DecodedStills]:
        """Return the stills of windows, corrupt ones replaced as in `decode_stills`.

        Raises Unreadable if a window has no valid still.
        """
        if self._on_card is None:
            return self._decode_on_threads(windows)
        try:
            return self._decode_on_card(self._on_card, windows)
        except RuntimeError as error:
            self._warn_once(error)
        if len(windows) == 1:
            return self._decode_on_threads(windows)
        return [stills for window in windows for stills in self.decode([window])]

    def _submit(self, jpegs: Sequence[bytes]) -> list[Future[np.ndarray | None]]:
        return [self._pool.submit(_decode_still, jpeg, *self._size) for jpeg in jpegs]

    def _decode_on_threads(self, windows: Sequence[Sequence[bytes]]) -> list[DecodedStills]:
        futures_by_window = [
            self._prepared.pop(tuple(jpegs), []) or self._submit(jpegs) for jpegs in windows
        ]
        decoded = [
            _replace_corrupt([future.result() for future in futures])
            for futures in futures_by_window
        ]
        counts = [len(stills) for stills, _ in decoded]
        shape, on_host = (sum(counts), *self._size, 3), self._device.type == "cpu"
        levels_NHWC = torch.empty(shape, dtype=torch.uint8, pin_memory=not on_host)
        np.stack([still for stills, _ in decoded for still in stills], out=levels_NHWC.numpy())
        levels_NCHW = levels_NHWC.to(self._device, non_blocking=True).permute(0, 3, 1, 2)
        return [
            DecodedStills(levels_NCHW=levels, corrupt=corrupt)
            for levels, (_, corrupt) in zip(levels_NCHW.split(counts), decoded, strict=True)
        ]

    def _decode_on_card(
        self, on_card: DecodeBatch, windows: Sequence[Sequence[bytes]]
    ) -> list[DecodedStills]:
        jpegs = [jpeg for window in windows for jpeg in window]
        if not all(windows) or not all(map(_has_end_marker, jpegs)):
            raise RuntimeError("a window without stills, or a JPEG without an end")
        bits = [torch.frombuffer(bytearray(jpeg), dtype=torch.uint8) for jpeg in jpegs]
        levels_NCHW = _resized_by_size(on_card(bits), *self._size)
        counts = [len(window) for window in windows]
        return [DecodedStills(levels_NCHW=own, corrupt=0) for own in levels_NCHW.split(counts)]

    def _warn_once(self, error: RuntimeError) -> None:
        if not self._has_warned:
            logger.warning(
                "the GPU does not decode these stills: decoding on the CPU", reason=str(error)
            )
        self._has_warned = True


def nvjpeg_decoder(device: torch.device) -> DecodeBatch | None:
    """Return the decoder of a GPU, None if torchvision is missing or does not load."""
    if device.type != "cuda":
        return None
    try:
        from torchvision.io import ImageReadMode, decode_jpeg  # noqa: PLC0415  an extra
    except ImportError:
        return None
    except (OSError, RuntimeError) as error:  # it was built for another torch
        logger.warning("torchvision does not load: stills are decoded on the CPU", reason=error)
        return None

    def decode_batch(bits: list[Tensor]) -> list[Tensor]:
        # torchvision decodes on another stream into memory of the current one, without waiting
        # for work that still uses that memory.
        torch.cuda.current_stream(device).synchronize()
        decoded: list[Tensor] = decode_jpeg(bits, mode=ImageReadMode.RGB, device=device)
        return decoded

    return decode_batch


def decode_stills(jpegs: Sequence[bytes], height: int, width: int) -> tuple[np.ndarray, int]:
    """Decode JPEGs to (N, H, W, 3); return them and the number of corrupt ones.

    A corrupt still is replaced by the one before it, or at the start by the first valid one.
    Raises Unreadable if none is valid.
    """
    stills, corrupt = _replace_corrupt([_decode_still(jpeg, height, width) for jpeg in jpegs])
    return np.stack(stills), corrupt


def resize(pictures_NChw: Tensor, height: int, width: int) -> Tensor:
    """Resize uint8 pictures as Pillow does: bicubic, antialiased, rounded between the passes."""
    levels_NChw = pictures_NChw.float()
    for size in ((levels_NChw.shape[2], width), (height, width)):
        levels_NChw = F.interpolate(levels_NChw, size, mode="bicubic", antialias=True)
        levels_NChw = levels_NChw.round_().clamp_(0, 255)
    return levels_NChw.to(torch.uint8)


def _resized_by_size(pictures: Sequence[Tensor], height: int, width: int) -> Tensor:
    """Return pictures of any sizes as (N, 3, H, W), resized in batches of one size."""
    parts = list[Tensor]()
    for _, group in groupby(pictures, key=lambda picture: picture.shape):
        same = list(group)
        for at in range(0, len(same), RESIZE_BATCH):
            parts.append(resize(torch.stack(same[at : at + RESIZE_BATCH]), height, width))
    return torch.cat(parts)


def _replace_corrupt(pictures: Sequence[np.ndarray | None]) -> tuple[list[np.ndarray], int]:
    """Return stills with each None replaced, and the number of None."""
    whole = [picture for picture in pictures if picture is not None]
    if not whole:
        raise Unreadable("no still is a valid JPEG")
    stills, last = list[np.ndarray](), whole[0]
    for picture in pictures:
        last = last if picture is None else picture
        stills.append(last)
    return stills, len(pictures) - len(whole)


def _has_end_marker(jpeg: bytes) -> bool:
    """Return whether a JPEG has its end marker: a GPU may decode a truncated one to grey."""
    return jpeg.startswith(b"\xff\xd8") and jpeg.rstrip(b"\0").endswith(b"\xff\xd9")


def _decode_still(jpeg: bytes, height: int, width: int) -> np.ndarray | None:
    """Return a still (H, W, 3), None if it is corrupt."""
    try:
        picture: Image.Image = Image.open(io.BytesIO(jpeg), formats=("JPEG",))
        if picture.mode != "RGB":
            picture = picture.convert("RGB")
        levels_hwC = torch.from_numpy(np.array(picture))
    except (OSError, Image.DecompressionBombError):
        return None
    # Torch resizes as Pillow does, within one level, in a fifth of the time.
    levels_1CHW = F.interpolate(
        levels_hwC.permute(2, 0, 1)[None], (height, width), mode="bicubic", antialias=True
    )
    return levels_1CHW[0].permute(1, 2, 0).numpy()
