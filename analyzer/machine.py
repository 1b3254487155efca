"""Where a model runs, in what precision, and how much memory is free there."""

import re
from pathlib import Path

import torch

from analyzer.errors import ModelUnusable

KINDS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
HOST = torch.device("cpu")
_AVAILABLE = re.compile(r"^MemAvailable: +(\d+) kB$", re.MULTILINE)


def place_of(device: str) -> torch.device:
    """Return the device that `auto`, `cpu` or `cuda:1` means; raises ModelUnusable."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    place = torch.device(device)
    if place.type == "cuda" and (place.index or 0) >= torch.cuda.device_count():
        raise ModelUnusable(f"there is no {device} here: set model.device to cpu or auto")
    return place


def kind_of(dtype: str, place: torch.device) -> torch.dtype:
    """Return the precision that `auto` or the name of one means on a device."""
    if dtype == "auto":
        dtype = "bfloat16" if place.type == "cuda" else "float32"
    return KINDS[dtype]


def free_on(place: torch.device) -> int:
    """Return the bytes that are free on a device, or that the kernel can free on the host."""
    if place.type == "cuda":
        return torch.cuda.mem_get_info(place)[0]
    (found,) = _AVAILABLE.findall(Path("/proc/meminfo").read_text())
    return int(found) * 1024
