"""Translate FFmpeg's errors: why the camera is lost, and what to do.

The text and the `filename` of PyAV's errors contain the url with its password: neither is shown.
"""

import errno
import os
import socket
from urllib.parse import urlsplit

import av.error

from ingest.address import address_of
from ingest.camera import Camera
from ingest.errors import CameraLost, LossKind
from ingest.live.reconnect import ConnectionHistory

_REASON_BY_STATUS = {
    403: "{where} does not show this stream to this user: ask its owner",
    400: "{where} rejects the request (400), as a relay does when too many clients watch or its"
    " source is not ready: read its log, and check the path in the url",
    429: "{where} receives too many requests (429): check which other clients watch this camera",
    453: "{where} refuses the stream (453): it has no room for another client; raise its number of"
    " streams or users, or close another",
    500: "{where} reports an internal error (500 or above): read its log, or restart it",
    461: "{where} does not send over {transport} (461): set `transport: {other}`",
}
_STATUS_BY_ERROR: tuple[tuple[type[av.error.FFmpegError], int], ...] = (
    (av.error.HTTPBadRequestError, 400),
    (av.error.HTTPUnauthorizedError, 401),
    (av.error.HTTPForbiddenError, 403),
    (av.error.HTTPNotFoundError, 404),
    (av.error.HTTPTooManyRequestsError, 429),
    (av.error.HTTPOtherClientError, 453),
    (av.error.HTTPServerError, 500),
)
_LOGIN_STATUSES = (401, 403)
_UNSUPPORTED_TRANSPORT = (errno.EPROTONOSUPPORT, errno.EPROTOTYPE)
"""FFmpeg's errors for a 461."""


def camera_lost_from(
    error: av.error.FFmpegError, camera: Camera, history: ConnectionHistory
) -> CameraLost:
    """Return the loss for an error of FFmpeg."""
    status = _response_status(error)
    if not status:
        reason, kind = _reason_for_error(error, camera)
        return CameraLost(camera.name, reason, kind)
    kind = LossKind.LOG_IN if status in _LOGIN_STATUSES else LossKind.GONE
    return CameraLost(camera.name, _reason_for_status(status, camera, history), kind)


def _response_status(error: av.error.FFmpegError) -> int:
    """Return the status of the camera's response; 0 for any other error."""
    if isinstance(error, OSError) and error.errno in _UNSUPPORTED_TRANSPORT:
        return 461
    return next((status for kind, status in _STATUS_BY_ERROR if isinstance(error, kind)), 0)


def _reason_for_status(status: int, camera: Camera, history: ConnectionHistory) -> str:
    where = address_of(camera.url)
    if status == 401:
        return _login_reason(where, camera, history)
    if status == 404 and history.has_worked:
        return (
            f"{where} has no such stream any more: check that the camera or the relay's source is"
            " up"
        )
    if status == 404:
        return f"{where} has no such stream: check the path in the url"
    other = {"tcp": "udp"}.get(camera.transport, "tcp")
    return _REASON_BY_STATUS[status].format(where=where, transport=camera.transport, other=other)


def _login_reason(where: str, camera: Camera, history: ConnectionHistory) -> str:
    if "@" not in camera.url:
        return f"{where} requires a user and a password: write both in the url"
    if history.has_worked:
        return (
            f"{where} refuses the user or the password that it accepted before: it may have locked"
            " the user out for some minutes; check both in the url"
        )
    reason = f"{where} refuses the user or the password: check both in the url"
    if history.failures:
        reason += "; it may have locked the user out for some minutes by now"
    return reason


def _reason_for_error(error: av.error.FFmpegError, camera: Camera) -> tuple[str, LossKind]:
    """Return what happened and what to do, without FFmpeg's text."""
    where = address_of(camera.url)
    match error:
        case av.error.ConnectionRefusedError():
            reason = f"nothing answers at {where}: check the port, and that the camera is up"
            return reason, LossKind.GONE
        case av.error.ExitError():
            return f"{where} fell silent: check the camera and the network", LossKind.SILENT
        case av.error.InvalidDataError():
            reason = f"{where} sends no video: check the path in the url, and the camera"
            return reason, LossKind.GONE
    if isinstance(error, OSError) and error.errno == errno.EIO and not _is_resolvable(camera.url):
        reason = f"the host of {where} is not known: check its name in the url, and DNS"
        return reason, LossKind.GONE
    detail = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else ""
    detail = f" ({detail})" if detail and "Unknown" not in detail else ""
    reason = f"no video comes from {where}{detail}: check the host, the path and the network"
    return reason, LossKind.GONE


def _is_resolvable(url: str) -> bool:
    """Return whether a url's host name resolves; FFmpeg reports EIO if it does not."""
    try:
        socket.getaddrinfo(urlsplit(url).hostname, None)
    except (OSError, UnicodeError):
        return False
    return True
