"""Look at a camera for a few seconds and say what it sends."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median

from ingest.address import address_of
from ingest.camera import Camera
from ingest.camera_clock import choose_clock
from ingest.frames import Frame, Sight
from ingest.host_clock import HostClock
from ingest.source import Source
from ingest.video_file import VideoFile
from storage.records import Clock, ClockSource


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """What a camera sends; sizes in pixels, times in seconds, `fps` as measured.

    `keyframe_interval` is None when fewer than two keyframes came. `clock` says whether the
    camera gives its own time (CAMERA_NTP), and how far that is from ours.
    """

    codec: str
    width: int
    height: int
    fps: float
    keyframe_interval: float | None
    clock: Clock


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sight:
    at: float
    is_key: bool
    claim: float | None


def probe(url: str, transport: str = "tcp", seconds: float = 8.0) -> Probe:
    """Watch a camera, or read a video file, for so many seconds.

    Raises BadAddress, CameraLost or BadVideo.
    """
    if "://" not in url:
        with VideoFile(Path(url)) as video:
            sights = _sights(video.frames(), seconds)
            return _probe(
                video, sights, Clock(source=ClockSource.FILE, offset=0.0), 1 / video.period
            )
    with Source(Camera(name=address_of(url), url=url, transport=transport)) as source:
        sights = _sights(source.frames(), seconds)
        claims = [sight.claim for sight in sights if sight.claim is not None]
        return _probe(source, sights, choose_clock(claims), 0.0)


def _probe(
    stream: Source | VideoFile, sights: Sequence[_Sight], clock: Clock, rate: float
) -> Probe:
    return Probe(
        codec=stream.codec,
        width=stream.width,
        height=stream.height,
        fps=_rate(sights) or rate,
        keyframe_interval=_keyframe_interval(sights),
        clock=clock,
    )


def _sights(frames: Iterable[Sight], seconds: float) -> list[_Sight]:
    """Take the frames of the first seconds; those without a timestamp only if all are."""
    host = HostClock()
    timed: list[_Sight] = []
    untimed: list[_Sight] = []
    for frame in frames:
        if not isinstance(frame, Frame):
            continue
        sights, at = (untimed, frame.arrived) if frame.pts is None else (timed, frame.pts)
        claim = None if frame.camera_time is None else frame.camera_time - host.at(frame.arrived)
        sights.append(_Sight(at=at, is_key=frame.picture.key_frame, claim=claim))
        if at - sights[0].at >= seconds:
            break
    return timed or untimed


def _rate(sights: Sequence[_Sight]) -> float:
    span = sights[-1].at - sights[0].at if sights else 0.0
    return (len(sights) - 1) / span if span > 0 else 0.0


def _keyframe_interval(sights: Iterable[_Sight]) -> float | None:
    instants = [sight.at for sight in sights if sight.is_key]
    steps = [after - before for before, after in pairwise(instants)]
    return median(steps) if steps else None
