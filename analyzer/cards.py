"""Which devices the setting `model.device` means, one or several."""

from collections.abc import Sequence

import torch

from analyzer.device import device_of
from analyzer.errors import ModelUnusable


def devices_of(names: str | Sequence[str]) -> list[torch.device]:
    """Return the devices that a name, a list of names, or `all` means; raises ModelUnusable."""
    if names == "all":
        count = torch.cuda.device_count()
        if count == 0:
            raise ModelUnusable("there is no card here: set model.device to cpu or auto")
        return [torch.device("cuda", number) for number in range(count)]
    return [device_of(name) for name in ([names] if isinstance(names, str) else names)]


def card_names() -> tuple[str, ...]:
    """Return the names of all cards; raises ModelUnusable where there is none."""
    return tuple(map(str, devices_of("all")))
