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

from ingest.errors import CameraLost, LossKind
from ingest.rtsp import preflight
from ingest.rtsp.preflight import NoAnswer, Peer, PreflightResponse, query_camera
from ingest.rtsp.url import CameraUrl, parse_url, userinfo_of, without_userinfo

if TYPE_CHECKING:
    from ingest.camera import Camera

_SETTLE_SECONDS = 0.25
"""Seconds after a description: some servers take down what they prepared for us as we leave, and
refuse whoever comes meanwhile (GStreamer's does for some 10 ms)."""
_MAX_REDIRECTS = 5
_SUPPORTED_DIGESTS = ("MD5", "MD5-sess")
"""What FFmpeg can log in with; of several digests it takes the last."""


@contextmanager
def resolve_redirects(camera: "Camera", on_connect: Callable[[Peer], None]) -> Generator[str]:
    """Give the url that FFmpeg may open for a live camera, and keep a source that was started.

    That is its own, or over HTTP the one that it redirects to. Redirects are followed on the same
    host, but not from an encrypted scheme to a plain one, and to hosts in `camera.redirects`.
    `met` is told of each connection. Raises CameraLost, with both hosts and no password, where one
    leads anywhere else, and where the camera does not answer or FFmpeg cannot take what it says.
    """
    with ExitStack() as open_connections:
        yield _follow_redirects(camera, on_connect, open_connections)


def _follow_redirects(
    camera: "Camera", on_connect: Callable[[Peer], None], open_connections: ExitStack
) -> str:
    url = parse_url(without_userinfo(camera.url))
    if url is None:
        return camera.url  # FFmpeg says what it makes of it
    deadline = time.monotonic() + preflight.RESPONSE_TIMEOUT
    userinfo = userinfo_of(camera.url)
    for _ in range(_MAX_REDIRECTS):
        response = _checked_response(camera, url, deadline, on_connect)
        if response is not None and response.open_connection is not None:
            open_connections.enter_context(response.open_connection)
        elif response is not None and url.is_rtsp and response.status == 200:
            Event().wait(_SETTLE_SECONDS)
        if response is None or not response.locations:
            return camera.url if url.is_rtsp else url.with_userinfo(userinfo)
        targets = [
            _redirect_target(camera, url, response.peer[0], each) for each in response.locations
        ]
        if not _is_host(targets[-1].host, url.host, response.peer[0]):
            userinfo = ""
        url = targets[-1]
    raise _settings_error(
        camera, f"{url.host_and_port} redirects again and again: check its settings"
    )


def _checked_response(
    camera: "Camera", url: CameraUrl, deadline: float, on_connect: Callable[[Peer], None]
) -> PreflightResponse | None:
    """Return what the camera answers; raise CameraLost where that cannot be watched."""
    try:
        response = query_camera(url, deadline, on_connect)
    except NoAnswer as error:
        if error.is_connected:
            reason = (
                f"{url.host_and_port} is connected, but does not answer in time: no picture yet"
            )
            raise CameraLost(camera.name, reason, LossKind.SILENT) from None
        reason = (
            f"nothing answers at {url.host_and_port}: check the network, and that the camera is up"
        )
        raise CameraLost(camera.name, reason) from None
    if response is None:
        return None
    if response.other_scheme:
        right, wrong = f"{response.other_scheme}://", f"{url.scheme}://"
        reason = f"{url.host_and_port} speaks {right} at this port, not {wrong}: change the url or the port"
        raise _settings_error(camera, reason)
    if response.digests and response.digests[-1] not in _SUPPORTED_DIGESTS and "@" in camera.url:
        algorithm = response.digests[-1] or "an algorithm of no name"
        reason = (
            f"{url.host_and_port} wants a log-in by digest with {algorithm}, which is not known here: set"
            " the digest algorithm of its RTSP or web authentication to MD5"
        )
        raise _settings_error(camera, reason)
    if response.encoding not in ("", "identity"):  # FFmpeg may unpack it for ever
        raise _settings_error(
            camera, f"{url.host_and_port} sends compressed video: turn its compression off"
        )
    if response.is_single_picture:
        raise _settings_error(camera, SINGLE_PICTURE_REASON.format(where=url.host_and_port))
    return response


SINGLE_PICTURE_REASON = (
    "{where} gives one picture for each request, which is no stream: take its RTSP url, or that of"
    " its MJPEG stream"
)


def _settings_error(camera: "Camera", reason: str) -> CameraLost:
    return CameraLost(camera.name, reason, LossKind.SETTINGS)


def _redirect_target(camera: "Camera", url: CameraUrl, peer: str, location: str) -> CameraUrl:
    """Return where a redirect leads; raise CameraLost where it must not."""
    text = "" if url.is_rtsp else url.text
    target = parse_url(urljoin(text, location) if text else location)
    if target is None or target.scheme[:4] != url.scheme[:4]:
        raise _settings_error(camera, f"{url.host_and_port} redirects to what is no address for it")
    if _is_host(target.host, *camera.redirects):
        return target
    if not _is_host(target.host, url.host, peer):
        text = (
            f"{url.host_and_port} redirects to {target.host_and_port}, another host, which would get the"
            " password: name that host under `redirects` if it is yours"
        )
        raise _settings_error(camera, text)
    if url.is_encrypted and not target.is_encrypted:
        text = (
            f"{url.host_and_port} redirects from {url.scheme} to {target.scheme}, which is in clear"
        )
        raise _settings_error(camera, text)
    return target


def _is_host(host: str, *others: str) -> bool:
    return _normalized_host(host) in map(_normalized_host, others)


def _normalized_host(host: str) -> str:
    """Return a host in the one spelling that it is compared in."""
    host = host.strip("[]").rstrip(".").lower()
    try:
        return str(ip_address(host))
    except ValueError:
        return host
