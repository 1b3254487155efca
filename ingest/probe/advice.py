"""Advise what to change in a camera or its relay, from a probe."""

from collections.abc import Iterator
from dataclasses import dataclass

from ingest.camera import Camera
from ingest.probe.result import ProbeResult
from ingest.probe.stream_quality import TimestampQuality
from ingest.timing.camera_clock import MAX_CLOCK_OFFSET

_MAX_KEYFRAME_INTERVAL = 10.0
_SMART_CODEC_FACTOR = 2.0
"""The longest interval of a smart codec, divided by its shortest."""
_SLOW_START = 5.0
_RATE_TOLERANCE = 0.03
_MIN_USED_SHARE = 0.9
_MAX_FAULTY_SHARE = 0.05
"""The share of timestamps that may be missing or repeated."""
_OVERSIZE_FACTOR = 2.5
"""Size of pictures at most, in sizes of the stills."""
_SET_INTERVAL = "set the I-frame interval to 1 to 4 s"
_SMART_CODEC_OFF = "turn off the smart codec (H.264+, H.265+)"


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeAdvice:
    """What to do and why, in one line; `about` is its stable identifier."""

    about: str
    text: str


def advice_for(probe: ProbeResult) -> tuple[ProbeAdvice, ...]:
    """Return what to change in a camera or its relay; nothing for a file."""
    if probe.waits is None:
        return ()
    topics = {
        "lost": _loss_advice,
        "keyframes": _keyframe_advice,
        "smart_codec": _smart_codec_advice,
        "start": _startup_advice,
        "timestamps": _timestamp_advice,
        "arrivals": _arrival_advice,
        "fps": _fps_advice,
        "clock": _clock_advice,
        "authentication": _authentication_advice,
        "size": _size_advice,
        "left_out": _omission_advice,
    }
    return tuple(
        ProbeAdvice(about=about, text=text)
        for about, topic in topics.items()
        for text in topic(probe)
    )


def _loss_advice(probe: ProbeResult) -> Iterator[str]:
    if probe.lost is not None:
        yield f"it was lost after {probe.seconds:.1f} s of pictures: {probe.lost}"


def _keyframe_advice(probe: ProbeResult) -> Iterator[str]:
    keyframes = probe.keyframes
    if keyframes.interval is not None and keyframes.interval > _MAX_KEYFRAME_INTERVAL:
        finding = f"keyframes are {keyframes.interval:.0f} s apart"
    elif keyframes.interval is None and keyframes.at_least >= _MAX_KEYFRAME_INTERVAL - 1:
        finding = f"no keyframe came for {keyframes.at_least:.0f} s (watch longer with --seconds)"
    else:
        return
    yield (
        f"{_SET_INTERVAL} and {_SMART_CODEC_OFF}: {finding}, and pictures wait for one after each"
        " loss"
    )


def _smart_codec_advice(probe: ProbeResult) -> Iterator[str]:
    shortest, longest = probe.keyframes.shortest, probe.keyframes.longest
    if shortest is None or longest is None:
        return
    if longest - shortest >= 1 and longest > _SMART_CODEC_FACTOR * shortest:
        yield (
            f"{_SMART_CODEC_OFF}: keyframes are {shortest:.1f} to {longest:.1f} s apart, and one"
            " that is late makes each loss longer"
        )


def _startup_advice(probe: ProbeResult) -> Iterator[str]:
    waits = probe.waits
    if waits is None or waits.picture <= _SLOW_START:
        return
    finding = f"the first picture took {waits.picture:.1f} s"
    if waits.for_keyframe > waits.picture / 2:
        yield f"{_SET_INTERVAL}: {finding}, most of it waiting for a keyframe"
    elif any(_keyframe_advice(probe)):
        yield f"{_SET_INTERVAL}: {finding}, as a relay waits for a keyframe before it sends"
    else:
        yield (
            f"let the relay run its source always, not on demand: {finding}, and each reconnect"
            " takes as long"
        )


def _timestamp_advice(probe: ProbeResult) -> Iterator[str]:
    timestamps = probe.timestamps
    if timestamps.missing == probe.pictures:
        yield "leave it as it is: it sends no timestamps, and arrival times are used"
    elif faults := "; ".join(_timestamp_faults(timestamps, probe.pictures)):
        yield (
            f"leave it as it is, or update the camera's or the relay's software: timestamps are not"
            f" reliable ({faults}), and arrival times are used instead"
        )


def _timestamp_faults(stamps: TimestampQuality, pictures: int) -> Iterator[str]:
    counts = {"jump back": stamps.back, "jump ahead": stamps.ahead}
    for words, count in (("are the same", stamps.equal), ("are missing", stamps.missing)):
        if count > _MAX_FAULTY_SHARE * pictures:
            counts[words] = count
    for words, count in counts.items():
        if count:
            yield f"{count} {words}"
    if stamps.rate is not None and abs(stamps.rate - 1) > _RATE_TOLERANCE:
        yield f"they run at {stamps.rate:.2f} of real time"
    if stamps.believed < _MIN_USED_SHARE:
        yield f"{stamps.believed:.0%} of them can be used"


def _arrival_advice(probe: ProbeResult) -> Iterator[str]:
    arrivals = probe.arrivals
    if arrivals is not None and arrivals.pauses:
        yield (
            "turn off a dynamic frame rate, or check the network and the relay: pictures pause"
            f" {arrivals.pauses} times, for {arrivals.longest_pause:.1f} s at most, and up to"
            f" {arrivals.longest_burst} arrive at once"
        )


def _fps_advice(probe: ProbeResult) -> Iterator[str]:
    default = Camera(name="", url="").fps
    if 0 < probe.fps < 0.9 * default:
        yield (
            f"set `fps: {probe.fps:.1g}` for it in the settings, or a higher frame rate in the"
            f" camera: it sends a picture every {1 / probe.fps:.1f} s, the default is {default:g} a"
            " second"
        )


def _clock_advice(probe: ProbeResult) -> Iterator[str]:
    time = probe.camera_time
    if time.after is None and not probe.scheme.startswith("rtsp"):
        yield "choose its RTSP stream if the camera's clock matters: HTTP sends none"
    elif time.after is None:
        yield (
            "let it send RTCP sender reports if it can, and set NTP: it sends no clock, and stills"
            " have arrival times"
        )
    elif not time.is_steady:
        yield f"set NTP in the camera: its clock steps by {time.spread:.1f} s, and is not used"
    elif abs(time.clock.offset) > MAX_CLOCK_OFFSET:
        yield (
            f"set NTP in the camera: its clock is {time.clock.offset:+.0f} s from ours, and is not"
            f" used beyond {MAX_CLOCK_OFFSET:.0f} s"
        )


def _authentication_advice(probe: ProbeResult) -> Iterator[str]:
    authentication = probe.authentication
    if authentication is None:
        return
    if authentication.is_needed is False:
        yield "set a password in the camera: whoever reaches it can watch"
    if authentication.offered == ("basic",) and not authentication.is_encrypted:
        yield (
            "set the log-in to digest, or use rtsps (https): it offers basic alone, which sends the"
            " password in clear"
        )


def _size_advice(probe: ProbeResult) -> Iterator[str]:
    size, side = probe.size, Camera(name="", url="").still_side
    if max(size.width, size.height) > _OVERSIZE_FACTOR * side:
        yield (
            f"choose the substream: {size.width} x {size.height} is decoded, which costs CPU, and"
            f" scaled to {side} pixels"
        )


def _omission_advice(probe: ProbeResult) -> Iterator[str]:
    if not probe.left_out:
        return
    reasons = ", ".join(f"{each.reason} ({each.count} times)" for each in probe.left_out)
    if probe.transport == "udp" and probe.scheme.startswith("rtsp"):
        yield f"choose `transport: tcp`, which loses nothing: {reasons}"
    else:
        yield f"check the network, and the relay if there is one: {reasons}"
