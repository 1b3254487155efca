"""What to change in a camera or its relay, from what a probe has seen."""

from collections.abc import Iterator
from dataclasses import dataclass

from ingest.camera import Camera
from ingest.camera_clock import TRUSTED
from ingest.probe_result import Probe
from ingest.stream_quality import Timestamps

_LONGEST_INTERVAL = 10.0
_VARYING = 2.0
"""How much longer than the shortest interval the longest is where a codec is smart."""
_SLOW = 5.0
_RATE = 0.03
_BELIEVED = 0.9
_FEW = 0.05
"""The share of timestamps that may be missing or the same."""
_LARGE = 2.5
"""By how much pictures may be larger than the stills."""
_INTERVAL = "set the I-frame interval to 1 to 4 s"
_SMART = "turn off the smart codec (H.264+, H.265+)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Advice:
    """What to do and why, in one line; `about` is a stable word for it."""

    about: str
    text: str


def advice_for(probe: Probe) -> tuple[Advice, ...]:
    """Return what to change in a camera or its relay; for a file there is nothing."""
    if probe.waits is None:
        return ()
    topics = {
        "lost": _lost,
        "keyframes": _keyframes,
        "smart_codec": _smart_codec,
        "start": _start,
        "timestamps": _timestamps,
        "arrivals": _arrivals,
        "fps": _fps,
        "clock": _clock,
        "authentication": _authentication,
        "size": _size,
        "left_out": _left_out,
    }
    return tuple(
        Advice(about=about, text=text) for about, topic in topics.items() for text in topic(probe)
    )


def _lost(probe: Probe) -> Iterator[str]:
    if probe.lost is not None:
        yield f"it was lost after {probe.seconds:.1f} s of pictures: {probe.lost}"


def _keyframes(probe: Probe) -> Iterator[str]:
    keys = probe.keyframes
    if keys.interval is not None and keys.interval > _LONGEST_INTERVAL:
        told = f"keyframes are {keys.interval:.0f} s apart"
    elif keys.interval is None and keys.at_least >= _LONGEST_INTERVAL - 1:
        told = f"no keyframe came for {keys.at_least:.0f} s (look for longer by --seconds)"
    else:
        return
    yield f"{_INTERVAL} and {_SMART}: {told}, and pictures wait for one after each loss"


def _smart_codec(probe: Probe) -> Iterator[str]:
    keys = probe.keyframes
    if keys.shortest is None or keys.longest is None or keys.longest - keys.shortest < 1:
        return
    if keys.longest > _VARYING * keys.shortest:
        yield (
            f"{_SMART}: keyframes are {keys.shortest:.1f} to {keys.longest:.1f} s apart, and one"
            " that is late makes each loss longer"
        )


def _start(probe: Probe) -> Iterator[str]:
    waits = probe.waits
    if waits is None or waits.picture <= _SLOW:
        return
    told = f"the first picture took {waits.picture:.1f} s"
    if waits.for_keyframe > waits.picture / 2:
        yield f"{_INTERVAL}: {told}, most of it waiting for a keyframe"
    elif any(_keyframes(probe)):
        yield f"{_INTERVAL}: {told}, as a relay waits for a keyframe before it sends anything"
    else:
        yield (
            f"let the relay run its source always, not on demand: {told}, which each reconnect"
            " takes, too"
        )


def _timestamps(probe: Probe) -> Iterator[str]:
    stamps = probe.timestamps
    if stamps.missing == probe.pictures:
        yield "leave it as it is: it sends no timestamps, and arrival times are used"
    elif said := "; ".join(_faults(stamps, probe.pictures)):
        yield (
            f"leave it as it is, or update the camera's or the relay's software: timestamps are not"
            f" reliable ({said}), and arrival times are used where they are not"
        )


def _faults(stamps: Timestamps, pictures: int) -> Iterator[str]:
    counts = {"jump back": stamps.back, "jump ahead": stamps.ahead}
    for words, count in (("are the same", stamps.equal), ("are missing", stamps.missing)):
        if count > _FEW * pictures:
            counts[words] = count
    for words, count in counts.items():
        if count:
            yield f"{count} {words}"
    if stamps.rate is not None and abs(stamps.rate - 1) > _RATE:
        yield f"they go at {stamps.rate:.2f} of real time"
    if stamps.believed < _BELIEVED:
        yield f"{stamps.believed:.0%} of them can be believed"


def _arrivals(probe: Probe) -> Iterator[str]:
    arrivals = probe.arrivals
    if arrivals is not None and arrivals.pauses:
        yield (
            "turn off a dynamic frame rate, or check the network and the relay: pictures pause"
            f" {arrivals.pauses} times, for {arrivals.longest_pause:.1f} s at most, and up to"
            f" {arrivals.longest_burst} come at once"
        )


def _fps(probe: Probe) -> Iterator[str]:
    default = Camera(name="", url="").fps
    if 0 < probe.fps < 0.9 * default:
        yield (
            f"set `fps: {probe.fps:.1g}` for it in the settings, or a higher frame rate in the"
            f" camera: it sends a picture every {1 / probe.fps:.1f} s, and {default:g} a second is"
            " looked for"
        )


def _clock(probe: Probe) -> Iterator[str]:
    time = probe.camera_time
    if time.after is None and not probe.scheme.startswith("rtsp"):
        yield "choose its RTSP stream where the camera's clock matters: HTTP brings none"
    elif time.after is None:
        yield (
            "let it send RTCP sender reports if it can, and set NTP: it gives no clock, and stills"
            " go by when they arrived"
        )
    elif not time.is_steady:
        yield f"set NTP in the camera: its clock steps by {time.spread:.1f} s, and is not used"
    elif abs(time.clock.offset) > TRUSTED:
        yield (
            f"set NTP in the camera: its clock is {time.clock.offset:+.0f} s from ours, and is not"
            f" used beyond {TRUSTED:.0f} s"
        )


def _authentication(probe: Probe) -> Iterator[str]:
    found = probe.authentication
    if found is None:
        return
    if found.is_needed is False:
        yield "set a password in the camera: whoever reaches it can watch"
    if found.offered == ("basic",) and not found.is_encrypted:
        yield (
            "set the log-in to digest, or use rtsps (https): it offers basic alone, which sends the"
            " password in clear"
        )


def _size(probe: Probe) -> Iterator[str]:
    size, side = probe.size, Camera(name="", url="").still_side
    if max(size.width, size.height) > _LARGE * side:
        yield (
            f"choose the substream: {size.width} x {size.height} is decoded, which costs CPU, and"
            f" made {side} wide or high"
        )


def _left_out(probe: Probe) -> Iterator[str]:
    if not probe.left_out:
        return
    told = ", ".join(f"{each.reason} ({each.count} times)" for each in probe.left_out)
    if probe.transport == "udp" and probe.scheme.startswith("rtsp"):
        yield f"choose `transport: tcp`, which loses nothing: {told}"
    else:
        yield f"check the network, and the relay if there is one: {told}"
