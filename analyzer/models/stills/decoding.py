"""JPEGs to stills of the tower's size: by threads, ahead of time, or on a card.

Aspect is not kept. The card is used where torchvision is installed (the extra `gpu`), whose
`decode_jpeg` calls nvJPEG; whatever that refuses goes to the threads, which use Pillow.

Legend: N stills, H W pixels, C colours, h w pixels of a picture as it was sent.
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
"""Windows that are decoded before they are asked for, at most."""
MAX_THREADS = 16
"""Threads, at most; no more than there are cores."""
RESIZE_BATCH = 16
"""Pictures that are resized together on a card, which takes float32 of their full size."""

DecodeBatch: TypeAlias = Callable[[list[Tensor]], list[Tensor]]
"""Decode JPEGs, uint8 on the host, to (3, h, w) on a card; RuntimeError where one is refused."""

logger = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodedStills:
    """The stills of a window, uint8 where the model is, and how many of them were replaced."""

    levels_NCHW: Tensor
    corrupt: int


class StillDecoder:
    """Decodes windows, several together; `prepare` lets threads begin with those that come next.

    `on_card` decodes for the device, None leaves everything to the threads.
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
        """Return whether to prepare windows: beside a card; on a CPU the cores are the model's."""
        return self._device.type != "cpu" and self._on_card is None

    @property
    def prepared_count(self) -> int:
        """Return how many prepared windows nobody has asked for yet."""
        return len(self._prepared)

    def prepare(self, jpegs: Sequence[bytes]) -> None:
        """Begin to decode a window that comes soon; beyond `AHEAD` the oldest is forgotten."""
        if self._on_card or tuple(jpegs) in self._prepared:
            return
        if len(self._prepared) >= MAX_PREPARED_WINDOWS:
            oldest = next(iter(self._prepared))
            for future in self._prepared.pop(oldest):
                future.cancel()
        self._prepared[tuple(jpegs)] = self._submit(jpegs)

    def decode(self, windows: Sequence[Sequence[bytes]]) -> list[DecodedStills]:
        """Return the stills of windows, a corrupt one replaced as in `decode`.

        Raises Unreadable where no still of a window is whole.
        """
        if self._on_card is None:
            return self._decode_on_threads(windows)
        try:
            return self._decode_on_card(self._on_card, windows)
        except RuntimeError as error:
            self._warn_once(error)
        if len(windows) == 1:
            return self._decode_on_threads(windows)
        return [one for window in windows for one in self.decode([window])]

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
            logger.warning("stills that the card does not decode", reason=str(error))
        self._has_warned = True


def nvjpeg_decoder(device: torch.device) -> DecodeBatch | None:
    """Return the decoder of a card, None where torchvision is not installed or does not load."""
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
        # torchvision decodes on a stream of its own into memory of the current one, and does not
        # wait for what may still use that memory there.
        torch.cuda.current_stream(device).synchronize()
        decoded: list[Tensor] = decode_jpeg(bits, mode=ImageReadMode.RGB, device=device)
        return decoded

    return decode_batch


def decode_stills(jpegs: Sequence[bytes], height: int, width: int) -> tuple[np.ndarray, int]:
    """Decode JPEGs to (N, H, W, 3), one after the other.

    A corrupt one is replaced by the one before it (the first by the one behind it); the number
    of those is returned too. Raises Unreadable where none is whole.
    """
    stills, corrupt = _replace_corrupt([_decode_still(jpeg, height, width) for jpeg in jpegs])
    return np.stack(stills), corrupt


def resize(pictures_NChw: Tensor, height: int, width: int) -> Tensor:
    """Resize uint8 pictures bicubically, antialiased, rounded between the passes as in Pillow."""
    levels_NChw = pictures_NChw.float()
    for size in ((levels_NChw.shape[2], width), (height, width)):
        levels_NChw = F.interpolate(levels_NChw, size, mode="bicubic", antialias=True)
        levels_NChw = levels_NChw.round_().clamp_(0, 255)
    return levels_NChw.to(torch.uint8)


def _resized_by_size(pictures: Sequence[Tensor], height: int, width: int) -> Tensor:
    """Return pictures of any sizes as (N, 3, H, W), neighbours of one size together."""
    parts = list[Tensor]()
    for _, group in groupby(pictures, key=lambda picture: picture.shape):
        same = list(group)
        for at in range(0, len(same), RESIZE_BATCH):
            parts.append(resize(torch.stack(same[at : at + RESIZE_BATCH]), height, width))
    return torch.cat(parts)


def _replace_corrupt(pictures: Sequence[np.ndarray | None]) -> tuple[list[np.ndarray], int]:
    """Return stills with each None replaced, and how many there were."""
    whole = [picture for picture in pictures if picture is not None]
    if not whole:
        raise Unreadable("no still is a whole JPEG")
    stills, last = list[np.ndarray](), whole[0]
    for picture in pictures:
        last = last if picture is None else picture
        stills.append(last)
    return stills, len(pictures) - len(whole)


def _has_end_marker(jpeg: bytes) -> bool:
    """Return whether a JPEG has its last marker: a card may decode what is cut off to grey."""
    return jpeg.startswith(b"\xff\xd8") and jpeg.rstrip(b"\0").endswith(b"\xff\xd9")


def _decode_still(jpeg: bytes, height: int, width: int) -> np.ndarray | None:
    """Return a still (H, W, 3), None where it is not whole."""
    try:
        picture: Image.Image = Image.open(io.BytesIO(jpeg), formats=("JPEG",))
        if picture.mode != "RGB":
            picture = picture.convert("RGB")
        levels_hwC = torch.from_numpy(np.array(picture))
    except (OSError, Image.DecompressionBombError):
        return None
    # Torch resizes as Pillow does, to a level, in a fifth of the time.
    levels_1CHW = F.interpolate(
        levels_hwC.permute(2, 0, 1)[None], (height, width), mode="bicubic", antialias=True
    )
    return levels_1CHW[0].permute(1, 2, 0).numpy()
