"""What to say where the cameras do not fit this machine, before anything starts; loads torch."""

from analyzer.capacity.capacity import LIMIT_KEY, Capacity, MemoryRoom
from analyzer.capacity.demand import MemoryDemand
from analyzer.errors import ModelUnusable
from deploy.config.settings import SettingKey
from deploy.format_bytes import format_bytes, format_bytes_setting, format_camera_count
from storage.duration import format_duration


def find_shortage(site: MemoryDemand) -> tuple[SettingKey, str] | None:
    """Return the key to blame and one line, with the figures that fit; None where all fits."""
    try:
        capacity = Capacity(site)
    except ModelUnusable as error:
        return ("model", "device"), str(error)
    return shortage(capacity)


def shortage(capacity: Capacity) -> tuple[SettingKey, str] | None:
    """Return the same where a capacity is known."""
    site = capacity.demand
    short = [room for room in capacity.rooms(site.memory, site.cameras) if not room.is_enough]
    if not short:
        return None
    if capacity.weight_bytes >= capacity.free_bytes and short[0].where != LIMIT_KEY:
        message = f"its weights take {format_bytes(capacity.weight_bytes)}"
        free = f"{capacity.device} has {format_bytes(capacity.free_bytes)} free"
        return ("model", "name"), f"{message}, {free}: see `longwatch doctor`"
    what = (
        f"{format_duration(site.memory.horizon)} of memory for {format_camera_count(site.cameras)}"
    )
    message = f"{what} takes {format_bytes(short[0].needed)}"
    available, fitting = format_bytes(short[0].available), _describe_what_fits(capacity, short[0])
    if short[0].where == LIMIT_KEY:
        return ("memory", "limit"), f"{message}, the limit is {available}: {fitting}"
    return ("memory", "horizon"), f"{message}, {short[0].where} has room for {available}: {fitting}"


def _describe_what_fits(capacity: Capacity, short: MemoryRoom) -> str:
    """Say what would fit: a limit, a horizon, a number of cameras."""
    site = capacity.demand
    longest = capacity.longest_horizon("horizon", site.memory.horizon, site.min_horizon)
    cameras = capacity.most_cameras(site.memory)
    message = (
        [f"a limit of {format_bytes_setting(short.needed)}"] if short.where == LIMIT_KEY else []
    )
    message += [f"a horizon of {format_duration(longest)}"] if longest else []
    message += [f"{format_camera_count(cameras)} at this horizon"] if cameras else []
    return (
        f"what fits is {', or '.join(message)}"
        if message
        else "nothing fits: see `longwatch doctor`"
    )
