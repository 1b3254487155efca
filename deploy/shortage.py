"""What to say where the cameras do not fit this machine, before anything starts; loads torch."""

from analyzer.capacity import LIMIT, Capacity, Room
from analyzer.errors import ModelUnusable
from analyzer.site import Site
from deploy.settings import Key
from deploy.units import cameras_text, size_setting, size_text
from storage.duration import format_duration


def refusal(site: Site) -> tuple[Key, str] | None:
    """Return the key to blame and one line, with the figures that fit; None where all fits."""
    try:
        capacity = Capacity(site)
    except ModelUnusable as error:
        return ("model", "device"), str(error)
    return shortage(capacity)


def shortage(capacity: Capacity) -> tuple[Key, str] | None:
    """Return the same where a capacity is known."""
    site = capacity.site
    short = [room for room in capacity.rooms(site.memory, site.cameras) if not room.is_enough]
    if not short:
        return None
    if capacity.weights >= capacity.free and short[0].where != LIMIT:
        told = f"its weights take {size_text(capacity.weights)}"
        free = f"{capacity.place} has {size_text(capacity.free)} free"
        return ("model", "name"), f"{told}, {free}: see `longwatch doctor`"
    what = f"{format_duration(site.memory.horizon)} of memory for {cameras_text(site.cameras)}"
    told = f"{what} takes {size_text(short[0].needed)}"
    there, fitting = size_text(short[0].available), _what_fits(capacity, short[0])
    if short[0].where == LIMIT:
        return ("memory", "limit"), f"{told}, the limit is {there}: {fitting}"
    return ("memory", "horizon"), f"{told}, {short[0].where} has room for {there}: {fitting}"


def _what_fits(capacity: Capacity, short: Room) -> str:
    """Say what would fit: a limit, a horizon, a number of cameras."""
    site = capacity.site
    longest = capacity.longest("horizon", site.memory.horizon, site.shortest)
    cameras = capacity.most_cameras(site.memory)
    told = [f"a limit of {size_setting(short.needed)}"] if short.where == LIMIT else []
    told += [f"a horizon of {format_duration(longest)}"] if longest else []
    told += [f"{cameras_text(cameras)} at this horizon"] if cameras else []
    return f"what fits is {', or '.join(told)}" if told else "nothing fits: see `longwatch doctor`"
