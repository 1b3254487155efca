"""What decides how much memory the settings need; loads no torch."""

from datetime import timedelta

from analyzer.capacity.demand import DEFAULT_ASKS, DEFAULT_LOOK_BACKS, MIN_HORIZON, MemoryDemand
from analyzer.kv.budget import WindowShape
from analyzer.zones import zone_question, zones_of
from deploy.config.settings import LongwatchSettings
from ingest.settings import CameraSettings


def build_memory_demand(settings: LongwatchSettings) -> MemoryDemand:
    """Return what the settings say about memory."""
    windows = [camera.window for camera in settings.cameras.values()]
    questions = settings.questions.values()
    look_backs = [each.look_back for each in questions if each.look_back]
    asks = [_question_texts(settings, camera) for camera in settings.cameras]
    return MemoryDemand(
        model=settings.model,
        memory=settings.memory,
        cameras=len(settings.cameras),
        shapes=tuple(dict.fromkeys(map(window_shape, settings.cameras.values()))),
        min_horizon=max(MIN_HORIZON, *windows, *look_backs),
        asks=max(asks, key=lambda texts: sum(map(len, texts))) or DEFAULT_ASKS,
        look_backs=tuple(dict.fromkeys(each.look_back or timedelta.max for each in questions))
        or DEFAULT_LOOK_BACKS,
    )


def window_shape(settings: CameraSettings) -> WindowShape:
    """Return the shape of a camera's windows."""
    return WindowShape(stills=settings.stills_per_window, length=settings.window)


def _question_texts(settings: LongwatchSettings, camera: str) -> tuple[str, ...]:
    """Return the questions of a camera as the model reads them."""
    zones = {zone.name: zone for zone in zones_of(settings.cameras[camera].zones)}
    return tuple(
        each.ask if each.zone is None else zone_question(zones[each.zone], each.ask)
        for each in settings.questions.values()
        if (not each.cameras or camera in each.cameras)
        and (each.zone is None or each.zone in zones)
    )
