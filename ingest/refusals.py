"""What FFmpeg's errors mean for who runs the camera: why it is lost, in words, and what to do.

The text and the `filename` of PyAV's errors hold the url with its password: neither is passed on.
"""

import errno
import os
import socket
from urllib.parse import urlsplit

import av.error

from ingest.address import address_of
from ingest.camera import Camera
from ingest.errors import CameraLost, Loss
from ingest.reconnect import History

_BY_STATUS = {
    403: "{where} does not show this stream to this user: ask its owner",
    400: "{where} takes the request for a bad one (400): a relay says so where too many watch, or"
    " where its source is not ready: read its log, and check the path in the url",
    429: "{where} is asked too often (429): see who else watches this camera",
    453: "{where} refuses the stream, as cameras do that have no room for one more who watches"
    " (453): raise its number of streams or users, or close another",
    500: "{where} has an error of its own (500 or above): read its log, or restart it",
    461: "{where} does not send over {transport} (461): set `transport: {other}`",
}
_BY_KIND: tuple[tuple[type[av.error.FFmpegError], int], ...] = (
    (av.error.HTTPBadRequestError, 400),
    (av.error.HTTPUnauthorizedError, 401),
    (av.error.HTTPForbiddenError, 403),
    (av.error.HTTPNotFoundError, 404),
    (av.error.HTTPTooManyRequestsError, 429),
    (av.error.HTTPOtherClientError, 453),
    (av.error.HTTPServerError, 500),
)
_LOG_INS = (401, 403)
_NOT_OFFERED = (errno.EPROTONOSUPPORT, errno.EPROTOTYPE)
"""What FFmpeg makes of a 461."""


def loss_of(error: av.error.FFmpegError, camera: Camera, history: History) -> CameraLost:
    """Return the loss that an error of FFmpeg means."""
    status = _status(error)
    if not status:
        reason, kind = _reason(error, camera)
        return CameraLost(camera.name, reason, kind)
    kind = Loss.LOG_IN if status in _LOG_INS else Loss.GONE
    return CameraLost(camera.name, _refusal(status, camera, history), kind)


def _status(error: av.error.FFmpegError) -> int:
    """Return the status that the camera answered; 0 where it is something else."""
    if isinstance(error, OSError) and error.errno in _NOT_OFFERED:
        return 461
    return next((status for kind, status in _BY_KIND if isinstance(error, kind)), 0)


def _refusal(status: int, camera: Camera, history: History) -> str:
    where = address_of(camera.url)
    if status == 401:
        return _refused_log_in(where, camera, history)
    if status == 404 and history.was_well:
        return (
            f"{where} has no such stream now, though it had: see whether the camera or the"
            " relay's source is up"
        )
    if status == 404:
        return f"{where} has no such stream: check the path in the url"
    other = {"tcp": "udp"}.get(camera.transport, "tcp")
    return _BY_STATUS[status].format(where=where, transport=camera.transport, other=other)


def _refused_log_in(where: str, camera: Camera, history: History) -> str:
    if "@" not in camera.url:
        return f"{where} asks for a user and a password: write both in the url"
    if history.was_well:
        return (
            f"{where} refuses the user or the password that it took before: it may have locked us"
            " out for some minutes; check both in the url"
        )
    told = f"{where} refuses the user or the password: check both in the url"
    if history.failures:
        told += "; it may have locked us out for some minutes by now"
    return told


def _reason(error: av.error.FFmpegError, camera: Camera) -> tuple[str, Loss]:
    """Say in our own words what happened and what to do."""
    where = address_of(camera.url)
    match error:
        case av.error.ConnectionRefusedError():
            told = f"nothing answers at {where}: check the port, and that the camera is up"
            return told, Loss.GONE
        case av.error.ExitError():
            return f"{where} fell silent: check the camera and the network", Loss.SILENT
        case av.error.InvalidDataError():
            return f"{where} sends no video: check the path in the url, and the camera", Loss.GONE
    if isinstance(error, OSError) and error.errno == errno.EIO and not _is_known(camera.url):
        return f"the host of {where} is not known: check its name in the url, and DNS", Loss.GONE
    detail = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else ""
    detail = f" ({detail})" if detail and "Unknown" not in detail else ""
    told = f"no video comes from {where}{detail}: check the host, the path and the network"
    return told, Loss.GONE


def _is_known(url: str) -> bool:
    """Return whether the name of a url's host resolves; FFmpeg says EIO where it does not."""
    try:
        socket.getaddrinfo(urlsplit(url).hostname, None)
    except (OSError, UnicodeError):
        return False
    return True
