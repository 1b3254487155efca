"""The devices of the analyzers; loads no torch into this process."""

from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context


def resolve_devices(device: str | Sequence[str]) -> tuple[str, ...]:
    """Return the devices that `model.device` names; raise ModelUnusable if `all` finds none."""
    if device != "all":
        return (device,) if isinstance(device, str) else tuple(device)
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(_card_names).result()


def _card_names() -> tuple[str, ...]:
    from analyzer.device import devices_of  # noqa: PLC0415  loads torch

    return tuple(map(str, devices_of("all")))
