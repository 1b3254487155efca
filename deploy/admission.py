"""Whether the memory that the settings ask for can be had, before anything starts.

The arithmetic needs torch, and to ask a GPU takes some of its memory: both in a process of its
own, so that the supervisor holds on to neither.
"""

from collections.abc import Iterator
from datetime import timedelta
from multiprocessing import get_context
from multiprocessing.connection import Connection

from analyzer.plan import WindowShape
from analyzer.site import ANY_ASK, ANY_REACH, SHORTEST, Site
from analyzer.zones import ask_about, zones_of
from deploy.errors import Failed
from deploy.settings import Key, Settings
from ingest.settings import CameraSettings

_SPAWN = get_context("spawn")


def site_of(settings: Settings) -> Site:
    """Return what the settings say about memory."""
    windows = [camera.window for camera in settings.cameras.values()]
    questions = settings.questions.values()
    back = [each.look_back for each in questions if each.look_back]
    return Site(
        model=settings.model,
        memory=settings.memory,
        cameras=len(settings.cameras),
        shapes=shapes_of(settings),
        shortest=max(SHORTEST, *windows, *back),
        asks=max((_asks(settings, camera) for camera in settings.cameras), key=_length) or ANY_ASK,
        reaches=tuple(dict.fromkeys(each.look_back or timedelta.max for each in questions))
        or ANY_REACH,
    )


def shape_of(settings: CameraSettings) -> WindowShape:
    """Return how a camera's windows are cut."""
    return WindowShape(stills=settings.stills_per_window, length=settings.window)


def shapes_of(settings: Settings) -> tuple[WindowShape, ...]:
    """Return how the windows of all cameras are cut, each way once."""
    return tuple(dict.fromkeys(map(shape_of, settings.cameras.values())))


def _asks(settings: Settings, camera: str) -> tuple[str, ...]:
    zones = {zone.name: zone for zone in zones_of(settings.cameras[camera].zones)}
    questions = settings.questions.values()
    concerned = [each for each in questions if not each.cameras or camera in each.cameras]
    return tuple(
        each.ask if each.zone is None else ask_about(zones[each.zone], each.ask)
        for each in concerned
        if each.zone is None or each.zone in zones
    )


def _length(asks: tuple[str, ...]) -> int:
    return sum(map(len, asks))


def memory_problems(settings: Settings) -> Iterator[tuple[Key, str]]:
    """Yield what makes that the memories of all cameras do not fit; the model has to be usable."""
    parent, child = _SPAWN.Pipe(duplex=False)
    process = _SPAWN.Process(target=_tell, args=(child, site_of(settings)), daemon=True)
    process.start()
    child.close()
    try:
        problem: tuple[Key, str] | None = parent.recv()
    except EOFError:
        raise Failed("what the memory takes cannot be reckoned: see the lines above") from None
    finally:
        process.join()
    if problem:
        yield problem


def start_problems(settings: Settings) -> Iterator[tuple[Key, str]]:
    """Yield what of this does not depend on what else runs here: a device, a limit."""
    if settings.memory.limit is not None or settings.model.device not in ("auto", "cpu"):
        yield from memory_problems(settings)


def _tell(parent: Connection, site: Site) -> None:
    from deploy.shortage import refusal  # noqa: PLC0415  loads torch

    parent.send(refusal(site))
