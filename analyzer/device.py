"""Devices that models run on: their names, precision and free memory."""

import os
import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import structlog
import torch

from analyzer.errors import ModelUnusable

DTYPE_BY_NAME = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
HOST = torch.device("cpu")
_AVAILABLE = re.compile(r"^MemAvailable: +(\d+) kB$", re.MULTILINE)
_REMEDIES = {
    "no NVIDIA driver": "install NVIDIA's driver, or set model.device to cpu",
    "driver on your system is too old": (
        "update NVIDIA's driver, or install a torch built for an older CUDA"
    ),
    "not compiled with CUDA": "install a torch built for CUDA, or set model.device to cpu",
    "No CUDA GPUs are available": (
        "check CUDA_VISIBLE_DEVICES, and with MIG that an instance exists"
    ),
    "out of memory": "another process fills the card: stop it, or set model.device to another card",
    "busy or unavailable": "another process uses the card exclusively (compute mode): stop it",
    "no kernel image": "this torch does not support this card: install another torch",
}
"""What to do, by a part of torch's error message."""
_UNKNOWN = "check the output of nvidia-smi, or set model.device to cpu"

logger = structlog.get_logger()


class Cuda(Protocol):
    """The part of `torch.cuda` that lists usable cards."""

    def is_available(self) -> bool:
        """Return whether a card works."""

    def device_count(self) -> int:
        """Return how many cards this process may use."""

    def init(self) -> None:
        """Start CUDA; raise an error with the reason if it does not start."""

    def mem_get_info(self, device: torch.device, /) -> tuple[int, int]:
        """Return the free and the total bytes of a card."""


def device_of(name: str, cuda: Cuda = torch.cuda) -> torch.device:
    """Return the device that `auto`, `cpu` or `cuda:1` means.

    `auto` is the CPU if no card works, which is logged if there is a driver. Raises ModelUnusable.
    """
    if name == "auto":
        failure = _cuda_failure(cuda)
        if failure and "no NVIDIA driver" not in failure and "not compiled" not in failure:
            logger.warning("no card can be used: running on the CPU", reason=failure)
        return torch.device("cpu" if failure else "cuda")
    device = torch.device(name)
    if device.type == "cpu":
        return device
    failure = _cuda_failure(cuda)
    if failure:
        raise ModelUnusable(f"there is no {name} here: {failure}: {_remedy(failure)}")
    cards = cuda.device_count()
    if (device.index or 0) >= cards:
        raise ModelUnusable(f"there is no {name} here: {_describe_cards(cards)}")
    return device


def devices_of(names: str | Sequence[str]) -> list[torch.device]:
    """Return the devices of a name, a list of names, or `all`; raises ModelUnusable."""
    if names == "all":
        count = torch.cuda.device_count()
        if count == 0:
            raise ModelUnusable("there is no card here: set model.device to cpu or auto")
        return [torch.device("cuda", number) for number in range(count)]
    return [device_of(name) for name in ([names] if isinstance(names, str) else names)]


def dtype_of(dtype: str, device: torch.device, on_cuda: str) -> torch.dtype:
    """Return the precision of a name; `auto` means `on_cuda` on a card and float32 on a CPU."""
    if dtype == "auto":
        dtype = on_cuda if device.type == "cuda" else "float32"
    return DTYPE_BY_NAME[dtype]


def free_bytes(device: torch.device, cuda: Cuda = torch.cuda) -> int:
    """Return the free bytes of a device; on the host, with those that the kernel can free.

    Raises ModelUnusable if the card does not respond.
    """
    if device.type == "cuda":
        try:
            return cuda.mem_get_info(device)[0]
        except RuntimeError as error:
            raise device_unusable(device, error) from error
    (found,) = _AVAILABLE.findall(Path("/proc/meminfo").read_text())
    return int(found) * 1024


def device_unusable(device: torch.device, error: Exception) -> ModelUnusable:
    """Return the one-line error of a device, with a remedy if it is a card."""
    reason = _first_line(error)
    remedy = f": {_remedy(reason)}" if device.type == "cuda" else ""
    return ModelUnusable(f"{device} cannot be used: {reason}{remedy}")


def _cuda_failure(cuda: Cuda) -> str:
    """Return why no card can be used; empty if one can."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        if cuda.is_available():
            return ""
        try:
            cuda.init()
        except (RuntimeError, AssertionError) as error:
            return _first_line(error)
    return _first_line(caught[-1].message) if caught else "torch finds no working card"


def _first_line(error: Warning | Exception | str) -> str:
    """Return the first sentence of an error, without torch's hints for developers."""
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0].split(". ")[0].removeprefix("CUDA error: ").rstrip(".")


def _remedy(reason: str) -> str:
    return next((what for part, what in _REMEDIES.items() if part in reason), _UNKNOWN)


def _describe_cards(cards: int) -> str:
    """Return which cards are visible, and why the machine may have more."""
    known = "cuda:0 is the only one" if cards == 1 else f"there are cuda:0 to cuda:{cards - 1}"
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
    why = f" (CUDA_VISIBLE_DEVICES is {hidden!r})" if hidden is not None else ""
    mig = " (with MIG a process sees one instance)" if cards == 1 else ""
    return f"{known}{why}{mig}: set model.device to one of these or auto"
