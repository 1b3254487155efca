"""Whether the memory that the settings ask for can be had, before anything starts.

The arithmetic needs torch, and to ask a GPU takes some of its memory: both in a process of its
own, so that the supervisor holds on to neither.
"""

from collections.abc import Iterator
from datetime import timedelta
from multiprocessing import get_context
from multiprocessing.connection import Connection

from analyzer.capacity.demand import DEFAULT_ASKS, DEFAULT_LOOK_BACKS, MIN_HORIZON, MemoryDemand
from analyzer.kv.budget import WindowShape
from analyzer.zones import zone_question, zones_of
from deploy.config.settings import LongwatchSettings, SettingKey
from deploy.errors import CommandFailed
from ingest.settings import CameraSettings

_SPAWN = get_context("spawn")


def build_site(settings: LongwatchSettings) -> MemoryDemand:
    """Return what the settings say about memory."""
    windows = [camera.window for camera in settings.cameras.values()]
    questions = settings.questions.values()
    look_backs = [each.look_back for each in questions if each.look_back]
    return MemoryDemand(
        model=settings.model,
        memory=settings.memory,
        cameras=len(settings.cameras),
        shapes=window_shapes(settings),
        min_horizon=max(MIN_HORIZON, *windows, *look_backs),
        asks=max(
            (_question_texts(settings, camera) for camera in settings.cameras), key=_total_length
        )
        or DEFAULT_ASKS,
        look_backs=tuple(dict.fromkeys(each.look_back or timedelta.max for each in questions))
        or DEFAULT_LOOK_BACKS,
    )


def window_shape(settings: CameraSettings) -> WindowShape:
    """Return how a camera's windows are cut."""
    return WindowShape(stills=settings.stills_per_window, length=settings.window)


def window_shapes(settings: LongwatchSettings) -> tuple[WindowShape, ...]:
    """Return how the windows of all cameras are cut, each way once."""
    return tuple(dict.fromkeys(map(window_shape, settings.cameras.values())))


def _question_texts(settings: LongwatchSettings, camera: str) -> tuple[str, ...]:
    zones = {zone.name: zone for zone in zones_of(settings.cameras[camera].zones)}
    questions = settings.questions.values()
    camera_questions = [each for each in questions if not each.cameras or camera in each.cameras]
    return tuple(
        each.ask if each.zone is None else zone_question(zones[each.zone], each.ask)
        for each in camera_questions
        if each.zone is None or each.zone in zones
    )


def _total_length(asks: tuple[str, ...]) -> int:
    return sum(map(len, asks))


def memory_problems(settings: LongwatchSettings) -> Iterator[tuple[SettingKey, str]]:
    """Yield what makes that the memories of all cameras do not fit; the model has to be usable."""
    parent, child = _SPAWN.Pipe(duplex=False)
    process = _SPAWN.Process(target=_send_shortage, args=(child, build_site(settings)), daemon=True)
    process.start()
    child.close()
    try:
        problem: tuple[SettingKey, str] | None = parent.recv()
    except EOFError:
        raise CommandFailed(
            "what the memory takes cannot be reckoned: see the lines above"
        ) from None
    finally:
        process.join()
    if problem:
        yield problem


def device_memory_problems(settings: LongwatchSettings) -> Iterator[tuple[SettingKey, str]]:
    """Yield what of this does not depend on what else runs here: a device, a limit."""
    if settings.memory.limit is not None or settings.model.device not in ("auto", "cpu"):
        yield from memory_problems(settings)


def _send_shortage(parent: Connection, site: MemoryDemand) -> None:
    from deploy.checks.shortage import find_shortage  # noqa: PLC0415  loads torch

    parent.send(find_shortage(site))
