"""Where a camera redirects to: FFmpeg is not let go where the password must not.

FFmpeg follows a redirect of RTSP to any host, logs in there, and has no option against it. So the
camera is asked first what FFmpeg will ask it (`preflight`). Whatever is no redirect, and no refusal
that FFmpeg would only tell less plainly, is left to FFmpeg: also 401.
"""

import time
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from ipaddress import ip_address
from threading import Event
from typing import TYPE_CHECKING
from urllib.parse import urljoin

from ingest import preflight
from ingest.errors import CameraLost, Loss
from ingest.place import Place, place_of, userinfo_of, without_userinfo
from ingest.preflight import Answer, NoAnswer, Peer, ask

if TYPE_CHECKING:
    from ingest.camera import Camera

_SETTLING = 0.25
"""Seconds after a description: some servers take down what they prepared for us as we leave, and
refuse whoever comes meanwhile (GStreamer's does for some 10 ms)."""
_MOST_REDIRECTS = 5
_KNOWN_DIGESTS = ("MD5", "MD5-sess")
"""What FFmpeg can log in with; of several digests it takes the last."""


@contextmanager
def opened_way(camera: "Camera", met: Callable[[Peer], None]) -> Generator[str]:
    """Give the url that FFmpeg may open for a live camera, and keep a source that was started.

    That is its own, or over HTTP the one that it redirects to. Redirects are followed on the same
    host, but not from an encrypted scheme to a plain one, and to hosts in `camera.redirects`.
    `met` is told of each connection. Raises CameraLost, with both hosts and no password, where one
    leads anywhere else, and where the camera does not answer or FFmpeg cannot take what it says.
    """
    with ExitStack() as held:
        yield _way(camera, met, held)


def _way(camera: "Camera", met: Callable[[Peer], None], held: ExitStack) -> str:
    place = place_of(without_userinfo(camera.url))
    if place is None:
        return camera.url  # FFmpeg says what it makes of it
    deadline = time.monotonic() + preflight.ANSWER
    userinfo = userinfo_of(camera.url)
    for _ in range(_MOST_REDIRECTS):
        answer = _answer_of(camera, place, deadline, met)
        if answer is not None and answer.held is not None:
            held.enter_context(answer.held)
        elif answer is not None and place.is_rtsp and answer.code == 200:
            Event().wait(_SETTLING)
        if answer is None or not answer.locations:
            return camera.url if place.is_rtsp else place.url_with(userinfo)
        following = [_next(camera, place, answer.peer[0], each) for each in answer.locations]
        if not _is_host(following[-1].host, place.host, answer.peer[0]):
            userinfo = ""
        place = following[-1]
    raise _unfit(camera, f"{place.shown} redirects again and again: check its settings")


def _answer_of(
    camera: "Camera", place: Place, deadline: float, met: Callable[[Peer], None]
) -> Answer | None:
    """Return what the camera answers; raise CameraLost where that cannot be watched."""
    try:
        answer = ask(place, deadline, met)
    except NoAnswer as why:
        if why.is_connected:
            told = f"{place.shown} is connected, but does not answer in time: no picture yet"
            raise CameraLost(camera.name, told, Loss.SILENT) from None
        told = f"nothing answers at {place.shown}: check the network, and that the camera is up"
        raise CameraLost(camera.name, told) from None
    if answer is None:
        return None
    if answer.other_scheme:
        right, wrong = f"{answer.other_scheme}://", f"{place.scheme}://"
        told = f"{place.shown} speaks {right} at this port, not {wrong}: change the url or the port"
        raise _unfit(camera, told)
    if answer.digests and answer.digests[-1] not in _KNOWN_DIGESTS and "@" in camera.url:
        algorithm = answer.digests[-1] or "an algorithm of no name"
        told = (
            f"{place.shown} wants a log-in by digest with {algorithm}, which is not known here: set"
            " the digest algorithm of its RTSP or web authentication to MD5"
        )
        raise _unfit(camera, told)
    if answer.encoding not in ("", "identity"):  # FFmpeg may unpack it for ever
        raise _unfit(camera, f"{place.shown} sends compressed video: turn its compression off")
    if answer.is_one_picture:
        raise _unfit(camera, ONE_PICTURE.format(where=place.shown))
    return answer


ONE_PICTURE = (
    "{where} gives one picture for each request, which is no stream: take its RTSP url, or that of"
    " its MJPEG stream"
)


def _unfit(camera: "Camera", reason: str) -> CameraLost:
    return CameraLost(camera.name, reason, Loss.SETTINGS)


def _next(camera: "Camera", place: Place, peer: str, location: str) -> Place:
    """Return where a redirect leads; raise CameraLost where it must not."""
    told = "" if place.is_rtsp else place.url
    target = place_of(urljoin(told, location) if told else location)
    if target is None or target.scheme[:4] != place.scheme[:4]:
        raise _unfit(camera, f"{place.shown} redirects to what is no address for it")
    if _is_host(target.host, *camera.redirects):
        return target
    if not _is_host(target.host, place.host, peer):
        told = (
            f"{place.shown} redirects to {target.shown}, another host, which would get the"
            " password: name that host under `redirects` if it is yours"
        )
        raise _unfit(camera, told)
    if place.is_encrypted and not target.is_encrypted:
        told = f"{place.shown} redirects from {place.scheme} to {target.scheme}, which is in clear"
        raise _unfit(camera, told)
    return target


def _is_host(host: str, *others: str) -> bool:
    return _plain(host) in map(_plain, others)


def _plain(host: str) -> str:
    """Return a host in the one spelling that it is compared in."""
    host = host.strip("[]").rstrip(".").lower()
    try:
        return str(ip_address(host))
    except ValueError:
        return host
