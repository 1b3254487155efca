"""Where a model runs, in what precision, and how much memory is free there."""

import os
import re
import warnings
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
        "look at CUDA_VISIBLE_DEVICES, and with MIG at whether an instance exists"
    ),
    "out of memory": "another process fills the card: stop it, or set model.device to another card",
    "busy or unavailable": "another process has the card for itself (its compute mode): stop it",
    "no kernel image": "this torch does not support so old or so new a card: install another torch",
}
"""What to do, by a part of what torch says."""
_UNKNOWN = "look at what nvidia-smi says, or set model.device to cpu"

logger = structlog.get_logger()


class Cuda(Protocol):
    """The part of `torch.cuda` that says which cards can be used."""

    def is_available(self) -> bool:
        """Return whether there is a card that works."""

    def device_count(self) -> int:
        """Return how many cards this process may use."""

    def init(self) -> None:
        """Start CUDA; raises an error that says why it does not start."""

    def mem_get_info(self, device: torch.device, /) -> tuple[int, int]:
        """Return the bytes that are free on a card, and all of them."""


def device_of(name: str, cuda: Cuda = torch.cuda) -> torch.device:
    """Return the device that `auto`, `cpu` or `cuda:1` means.

    `auto` takes the CPU where no card works, and logs why where there is a driver. Raises
    ModelUnusable with what to do.
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


def dtype_of(dtype: str, device: torch.device, on_cuda: str) -> torch.dtype:
    """Return the precision that a name means, or `auto`: `on_cuda` there, float32 on a CPU."""
    if dtype == "auto":
        dtype = on_cuda if device.type == "cuda" else "float32"
    return DTYPE_BY_NAME[dtype]


def free_bytes(device: torch.device, cuda: Cuda = torch.cuda) -> int:
    """Return the bytes that are free on a device, or that the kernel can free on the host.

    Raises ModelUnusable where a card cannot even be asked.
    """
    if device.type == "cuda":
        try:
            return cuda.mem_get_info(device)[0]
        except RuntimeError as error:
            raise device_unusable(device, error) from error
    (found,) = _AVAILABLE.findall(Path("/proc/meminfo").read_text())
    return int(found) * 1024


def device_unusable(device: torch.device, error: Exception) -> ModelUnusable:
    """Return one line for what a device refused, with what to do where it is a card."""
    reason = _first_line(error)
    remedy = f": {_remedy(reason)}" if device.type == "cuda" else ""
    return ModelUnusable(f"{device} cannot be used: {reason}{remedy}")


def _cuda_failure(cuda: Cuda) -> str:
    """Return why no card can be used, nothing where one can."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        if cuda.is_available():
            return ""
        try:
            cuda.init()
        except (RuntimeError, AssertionError) as error:
            return _first_line(error)
    return _first_line(caught[-1].message) if caught else "torch finds no card that works"


def _first_line(error: Warning | Exception | str) -> str:
    """Return the first sentence of an error, without torch's hints for its own developers."""
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0].split(". ")[0].removeprefix("CUDA error: ").rstrip(".")


def _remedy(reason: str) -> str:
    return next((what for part, what in _REMEDIES.items() if part in reason), _UNKNOWN)


def _describe_cards(cards: int) -> str:
    """Say which cards there are, and why there may be fewer than in the machine."""
    known = "cuda:0 is the only one" if cards == 1 else f"there are cuda:0 to cuda:{cards - 1}"
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
    why = f" (CUDA_VISIBLE_DEVICES is {hidden!r})" if hidden is not None else ""
    mig = " (with MIG a process sees one instance)" if cards == 1 else ""
    return f"{known}{why}{mig}: set model.device to one of these or auto"
