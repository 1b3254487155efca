"""Say which setting is too large for this machine's memory, and what fits; loads torch."""

from analyzer.capacity.capacity import LIMIT_KEY, Capacity, MemoryRoom
from analyzer.capacity.demand import MemoryDemand
from analyzer.errors import ModelUnusable
from deploy.config.problems import SettingProblem
from deploy.format_bytes import format_bytes, format_bytes_setting, format_camera_count
from storage.duration import format_duration


def find_shortage(demand: MemoryDemand) -> SettingProblem | None:
    """Return the setting to change, with the figures that fit; None if all cameras fit."""
    try:
        capacity = Capacity(demand)
    except ModelUnusable as error:
        return SettingProblem(key=("model", "device"), message=str(error))
    return shortage(capacity)


def shortage(capacity: Capacity) -> SettingProblem | None:
    """Return the same for a known capacity."""
    demand = capacity.demand
    short = [room for room in capacity.rooms(demand.memory, demand.cameras) if not room.is_enough]
    if not short:
        return None
    room = short[0]
    if capacity.weight_bytes >= capacity.free_bytes and room.where != LIMIT_KEY:
        message = f"its weights take {format_bytes(capacity.weight_bytes)}"
        free = f"{capacity.device} has {format_bytes(capacity.free_bytes)} free"
        message = f"{message}, {free}: see `longwatch doctor`"
        return SettingProblem(key=("model", "name"), message=message)
    horizon = format_duration(demand.memory.horizon)
    needed = f"{horizon} of memory for {format_camera_count(demand.cameras)} takes"
    needed += f" {format_bytes(room.needed)}"
    available, fitting = format_bytes(room.available), _describe_what_fits(capacity, room)
    if room.where == LIMIT_KEY:
        message = f"{needed}, the limit is {available}: {fitting}"
        return SettingProblem(key=("memory", "limit"), message=message)
    message = f"{needed}, {room.where} has room for {available}: {fitting}"
    return SettingProblem(key=("memory", "horizon"), message=message)


def _describe_what_fits(capacity: Capacity, short: MemoryRoom) -> str:
    """Name a limit, a horizon and a number of cameras that fit."""
    demand = capacity.demand
    longest = capacity.longest_horizon("horizon", demand.memory.horizon, demand.min_horizon)
    cameras = capacity.most_cameras(demand.memory)
    choices = []
    if short.where == LIMIT_KEY:
        choices.append(f"a limit of {format_bytes_setting(short.needed)}")
    if longest:
        choices.append(f"a horizon of {format_duration(longest)}")
    if cameras:
        choices.append(f"{format_camera_count(cameras)} at this horizon")
    fits = f"what fits is {', or '.join(choices)}"
    return fits if choices else "nothing fits: see `longwatch doctor`"
