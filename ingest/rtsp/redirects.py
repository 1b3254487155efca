"""Follow a camera's redirects, so that FFmpeg never sends the password to another host.

FFmpeg follows an RTSP redirect to any host, logs in there, and has no option against it. So the
camera receives FFmpeg's requests first (`preflight`). FFmpeg handles all responses other than
redirects and refusals that it reports badly; also 401.
"""

import time
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from ipaddress import ip_address
from threading import Event
from urllib.parse import urljoin

from ingest.camera import Camera
from ingest.errors import CameraLost, LossKind
from ingest.rtsp import preflight
from ingest.rtsp.preflight import NoAnswer, Peer, PreflightResponse, query_camera
from ingest.rtsp.url import CameraUrl, parse_url, userinfo_of, without_userinfo

_SETTLE_SECONDS = 0.25
"""Seconds after a description: some servers clean up when we disconnect, and refuse new clients
meanwhile (GStreamer's for some 10 ms)."""
_MAX_REDIRECTS = 5
_SUPPORTED_DIGESTS = ("MD5", "MD5-sess")
"""Digests that FFmpeg supports; of several it uses the last."""


@contextmanager
def resolve_redirects(camera: Camera, on_connect: Callable[[Peer], None]) -> Generator[str]:
    """Yield the url that FFmpeg may open for a live camera; keep a started source alive meanwhile.

    This is the camera's url, or over HTTP the redirect's target. Redirects may lead to the same
    host, but not from an encrypted scheme to a plain one, and to hosts in `camera.redirects`.
    `on_connect` is called with each peer. Raises CameraLost, with both hosts and no password, for
    any other redirect, and if the camera does not respond or FFmpeg does not support the response.
    """
    with ExitStack() as open_connections:
        yield _follow_redirects(camera, on_connect, open_connections)


def _follow_redirects(
    camera: Camera, on_connect: Callable[[Peer], None], open_connections: ExitStack
) -> str:
    url = parse_url(without_userinfo(camera.url))
    if url is None:
        return camera.url  # FFmpeg reports the error
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
        peer = response.peer[0]
        targets = [_redirect_target(camera, url, peer, each) for each in response.locations]
        if not _is_host(targets[-1].host, url.host, peer):
            userinfo = ""
        url = targets[-1]
    raise _settings_error(camera, url, "redirects again and again: check its settings")


def _checked_response(
    camera: Camera, url: CameraUrl, deadline: float, on_connect: Callable[[Peer], None]
) -> PreflightResponse | None:
    """Return the camera's response; raise CameraLost if it cannot be watched."""
    try:
        response = query_camera(url, deadline, on_connect)
    except NoAnswer as error:
        where = url.host_and_port
        if error.is_connected:
            reason = f"{where} is connected, but does not answer in time: no picture yet"
            raise CameraLost(camera.name, reason, LossKind.SILENT) from None
        reason = f"nothing answers at {where}: check the network, and that the camera is up"
        raise CameraLost(camera.name, reason) from None
    if response is not None and (reason := _unsupported_reason(camera, url, response)):
        raise _settings_error(camera, url, reason)
    return response


def _unsupported_reason(camera: Camera, url: CameraUrl, response: PreflightResponse) -> str:
    """Return why FFmpeg cannot use the response, and what to do; empty if it can."""
    if response.other_scheme:
        right, wrong = f"{response.other_scheme}://", f"{url.scheme}://"
        return f"speaks {right} at this port, not {wrong}: change the url or the port"
    if response.digests and response.digests[-1] not in _SUPPORTED_DIGESTS and "@" in camera.url:
        algorithm = response.digests[-1] or "an unnamed algorithm"
        return (
            f"requires a log-in by digest with {algorithm}, which is not supported: set the digest"
            " algorithm of its RTSP or web authentication to MD5"
        )
    if response.encoding not in ("", "identity"):  # FFmpeg may unpack it for ever
        return "sends compressed video: turn its compression off"
    return SINGLE_PICTURE_REASON if response.is_single_picture else ""


SINGLE_PICTURE_REASON = "sends one picture per request, not a stream: use its RTSP or MJPEG url"


def _settings_error(camera: Camera, url: CameraUrl, reason: str) -> CameraLost:
    return CameraLost(camera.name, f"{url.host_and_port} {reason}", LossKind.SETTINGS)


def _redirect_target(camera: Camera, url: CameraUrl, peer: str, location: str) -> CameraUrl:
    """Return the target of a redirect; raise CameraLost if it is not allowed."""
    text = "" if url.is_rtsp else url.text
    target = parse_url(urljoin(text, location) if text else location)
    if target is None or target.scheme[:4] != url.scheme[:4]:
        raise _settings_error(camera, url, "redirects to an address that is not valid for it")
    if _is_host(target.host, *camera.redirects):
        return target
    if not _is_host(target.host, url.host, peer):
        reason = (
            f"redirects to {target.host_and_port}, another host, which would get the password:"
            " name that host under `redirects` if it is yours"
        )
        raise _settings_error(camera, url, reason)
    if url.is_encrypted and not target.is_encrypted:
        reason = f"redirects from {url.scheme} to {target.scheme}, which is not encrypted"
        raise _settings_error(camera, url, reason)
    return target


def _is_host(host: str, *others: str) -> bool:
    return _normalized_host(host) in map(_normalized_host, others)


def _normalized_host(host: str) -> str:
    """Return the canonical spelling of a host."""
    host = host.strip("[]").rstrip(".").lower()
    try:
        return str(ip_address(host))
    except ValueError:
        return host
