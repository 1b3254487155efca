"""The result of `longwatch probe`, as JSON and as a table."""

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from rich.table import Table
from rich.text import Text

from ingest.probe.advice import advice_for
from ingest.probe.result import CameraTime, PictureSize, ProbeResult, StartupWaits
from ingest.probe.stream_quality import ArrivalQuality, KeyframeQuality, TimestampQuality
from ingest.rtsp.authentication import Authentication
from storage.records.records import ClockSource

_LOGINS = {None: "does not say whether it wants a log-in", False: "wants no log-in"}


def probe_fields(probe: ProbeResult) -> dict[str, Any]:
    """Return what a camera sends, as JSON: seconds, pixels, degrees; `fps` is what arrived."""
    size, keys, time = probe.size, probe.keyframes, probe.camera_time
    return {
        "scheme": probe.scheme,
        "codec": probe.codec,
        "width": size.width,
        "height": size.height,
        "sent_width": size.sent_width,
        "sent_height": size.sent_height,
        "rotation": size.rotation,
        "pixel_aspect": size.pixel_aspect,
        "seconds": probe.seconds,
        "pictures": probe.pictures,
        "fps": probe.fps,
        "keyframe_interval": keys.interval,
        "keyframes": asdict(keys),
        "timestamps": asdict(probe.timestamps),
        "arrivals": probe.arrivals and asdict(probe.arrivals),
        "clock": {
            "source": time.clock.source,
            "offset": time.clock.offset,
            "after": time.after,
            "spread": time.spread,
            "is_steady": time.is_steady,
        },
        "first_picture": probe.waits and asdict(probe.waits),
        "authentication": probe.authentication and asdict(probe.authentication),
        "left_out": [asdict(each) for each in probe.left_out],
        "lost": probe.lost,
        "advice": [asdict(each) for each in advice_for(probe)],
    }


def probe_parts(probe: ProbeResult) -> Iterator[Table | str]:
    """Yield a table of what a camera sends, and a line for each advice."""
    table = Table(show_header=False, box=None)
    for name, text in _rows(probe):
        table.add_row(name, Text(text))
    yield table
    for each in advice_for(probe):
        yield f"- {each.about}: {each.text}"


def _rows(probe: ProbeResult) -> Iterator[tuple[str, str]]:
    yield "codec", probe.codec
    yield "size", _size(probe.size)
    yield "pictures", f"{probe.pictures} in {probe.seconds:.1f} s, {probe.fps:.1f} a second"
    yield "keyframes", _keyframes(probe.keyframes)
    yield "timestamps", _timestamps(probe.timestamps, probe.pictures)
    if probe.arrivals is not None:
        yield "arrivals", _arrivals(probe.arrivals)
    yield "clock", _clock(probe.camera_time)
    if probe.waits is not None:
        yield "first picture", _waits(probe.waits)
    if probe.authentication is not None:
        yield "authentication", _login(probe.authentication)
    for each in probe.left_out:
        yield "left out", f"{each.reason}: {each.count} times"


def _size(size: PictureSize) -> str:
    shown = f"{size.width} x {size.height}"
    if (size.rotation, size.pixel_aspect) == (0, 1.0):
        return shown
    sent = f"sent as {size.sent_width} x {size.sent_height}"
    return (
        f"{shown} ({sent}, turned by {size.rotation} degrees, pixels {size.pixel_aspect:.3f} : 1)"
    )


def _keyframes(keys: KeyframeQuality) -> str:
    if keys.interval is not None:
        return f"{keys.interval:.1f} s apart ({keys.shortest:.1f} to {keys.longest:.1f} s)"
    return f"fewer than two came: at least {keys.at_least:.1f} s apart"


def _timestamps(stamps: TimestampQuality, pictures: int) -> str:
    if stamps.missing == pictures:
        return "none"
    rate = "" if stamps.rate is None else f", they go at {stamps.rate:.2f} of real time"
    counts = f"{stamps.back} back, {stamps.ahead} ahead, {stamps.equal} the same"
    return f"{stamps.believed:.0%} believed{rate} ({counts}, {stamps.missing} missing)"


def _arrivals(arrivals: ArrivalQuality) -> str:
    return (
        f"{arrivals.pauses} pauses, the longest {arrivals.longest_pause:.1f} s;"
        f" at most {arrivals.longest_burst} at once"
    )


def _clock(time: CameraTime) -> str:
    if time.clock.source is ClockSource.FILE:
        return "a file has no clock"
    if time.after is None:
        return "the camera gives no clock: receive time is used"
    used = "it is used" if time.clock.source is ClockSource.CAMERA_NTP else "receive time is used"
    steady = "steady" if time.is_steady else f"not steady ({time.spread:.1f} s)"
    offset = f"{time.clock.offset:+.3f} s from ours"
    return f"the camera gives its clock after {time.after:.1f} s ({offset}, {steady}): {used}"


def _waits(waits: StartupWaits) -> str:
    reason = "" if waits.reason is None else f", before it: {waits.reason}"
    keyframe = "no keyframe" if waits.keyframe is None else f"keyframe after {waits.keyframe:.1f} s"
    return f"after {waits.picture:.1f} s (connected {waits.opened:.1f} s, {keyframe}){reason}"


def _login(found: Authentication) -> str:
    where = "over TLS, the certificate is not checked" if found.is_encrypted else "in clear"
    if found.is_needed:
        return f"by {', '.join(found.offered) or 'no way that is known here'} ({where})"
    return f"the camera {_LOGINS[found.is_needed]} ({where})"
