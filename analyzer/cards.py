"""Which devices the setting `model.device` means, one or several."""

from collections.abc import Sequence

import torch

from analyzer.errors import ModelUnusable
from analyzer.machine import place_of


def places_of(device: str | Sequence[str]) -> list[torch.device]:
    """Return the devices that a name, a list of names, or `all` means; raises ModelUnusable."""
    if device == "all":
        count = torch.cuda.device_count()
        if count == 0:
            raise ModelUnusable("there is no card here: set model.device to cpu or auto")
        return [torch.device("cuda", number) for number in range(count)]
    return [place_of(name) for name in ([device] if isinstance(device, str) else device)]


def card_names() -> tuple[str, ...]:
    """Return the names of all cards; raises ModelUnusable where there is none."""
    return tuple(map(str, places_of("all")))
