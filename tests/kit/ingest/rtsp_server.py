"""Serve a looping H.264, H.265 or MJPEG elementary stream as a live RTSP camera, for the tests.

A camera that was stopped filmed nothing meanwhile: it goes on where it was, with a gap of time.

Run it with Debian's /usr/bin/python3 (python3-gi, gir1.2-gst-rtsp-server-1.0,
gstreamer1.0-plugins-base, -good and -bad). It prints "ready" once it listens.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstApp", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstApp, GstRtspServer  # noqa: E402, F401

ROLE = "viewer"
LATE = Gst.SECOND
PARSERS = {
    ".h264": ("h264parse config-interval=-1", "rtph264pay pt=96"),
    ".h265": ("h265parse config-interval=-1", "rtph265pay pt=96"),
    ".mjpeg": ("jpegparse", "rtpjpegpay pt=26"),
}
FORMATS = {
    ".h264": "video/x-h264,stream-format=byte-stream,alignment=au",
    ".h265": "video/x-h265,stream-format=byte-stream,alignment=au",
    ".mjpeg": "image/jpeg",
}


@dataclass(frozen=True)
class ClipUnits:
    """The access units of an elementary stream, in order."""

    parser: str
    payloader: str
    caps: str
    units: list[tuple[bytes, bool]]


def read_clip(path: Path) -> ClipUnits:
    """Split the file into access units, each with whether it is a keyframe."""
    parser, payloader = PARSERS[path.suffix]
    pipeline = Gst.parse_launch(
        f"filesrc location={path} ! {parser} ! {FORMATS[path.suffix]} ! appsink name=out sync=false"
    )
    pipeline.set_state(Gst.State.PLAYING)
    out, caps, units = pipeline.get_by_name("out"), "", []
    while (sample := out.emit("pull-sample")) is not None:
        caps = caps or sample.get_caps().to_string()
        buffer = sample.get_buffer()
        is_key = not buffer.has_flags(Gst.BufferFlags.DELTA_UNIT)
        units.append((buffer.extract_dup(0, buffer.get_size()), is_key))
    pipeline.set_state(Gst.State.NULL)
    return ClipUnits(parser, payloader, caps, units)


class ClipFeed:
    """Push the units of a clip at their rate, with running timestamps, for ever."""

    def __init__(self, clip: ClipUnits, fps: float, media: GstRtspServer.RTSPMedia) -> None:
        self.clip, self.period = clip, int(Gst.SECOND / fps)
        self.element = media.get_element()
        self.source = self.element.get_by_name_recurse_up("source")
        self.source.set_property("caps", Gst.Caps.from_string(clip.caps))
        self.count, self.first, self.alive = 0, None, True
        media.connect("unprepared", self.stop)
        GLib.timeout_add(10, self.tick)

    def stop(self, _media: GstRtspServer.RTSPMedia) -> None:
        self.alive = False

    def tick(self) -> bool:
        """Push all that is due; False ends the timer."""
        clock = self.element.get_clock()
        if clock is None:
            return self.alive
        now = clock.get_time() - self.element.get_base_time()
        first = now if self.first is None else self.first
        if first + self.count * self.period < now - LATE:
            first = now - self.count * self.period
        self.first = first
        while self.alive and first + self.count * self.period <= now:
            self.alive = self.push(first + self.count * self.period)
        return self.alive

    def push(self, due: int) -> bool:
        data, is_key = self.clip.units[self.count % len(self.clip.units)]
        self.count += 1
        buffer = Gst.Buffer.new_wrapped(data)
        buffer.pts = buffer.dts = due
        buffer.duration = self.period
        if not is_key:
            buffer.set_flags(Gst.BufferFlags.DELTA_UNIT)
        return self.source.emit("push-buffer", buffer) == Gst.FlowReturn.OK


class CameraFactory(GstRtspServer.RTSPMediaFactory):
    """One stream, shared by all who watch it."""

    def __init__(self, path: Path, fps: float) -> None:
        super().__init__()
        self.clip, self.fps = read_clip(path), fps
        self.set_shared(True)
        self.set_launch(
            "( appsrc name=source is-live=true format=time do-timestamp=false ! "
            f"{self.clip.parser} ! {self.clip.payloader} name=pay0 )"
        )
        permissions = GstRtspServer.RTSPPermissions()
        for permission in ("media.factory.access", "media.factory.construct"):
            permissions.add_permission_for_role(ROLE, permission, True)
        self.set_permissions(permissions)
        self.connect("media-configure", lambda _factory, media: ClipFeed(self.clip, fps, media))


def basic_auth(user: str, password: str) -> GstRtspServer.RTSPAuth:
    """Let in whoever gives this user and password, nobody else."""
    token = GstRtspServer.RTSPToken()
    token.set_string("media.factory.role", ROLE)
    auth = GstRtspServer.RTSPAuth()
    auth.add_basic(GstRtspServer.RTSPAuth.make_basic(user, password), token)
    return auth


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("port")
    parser.add_argument("clip", type=Path)
    parser.add_argument("--fps", type=float, default=10.0)
    parser.add_argument("--user")
    parser.add_argument("--password", default="")
    arguments = parser.parse_args()
    Gst.init(None)
    server = GstRtspServer.RTSPServer()
    server.set_address("127.0.0.1")
    server.set_service(arguments.port)
    if arguments.user:
        server.set_auth(basic_auth(arguments.user, arguments.password))
    server.get_mount_points().add_factory("/cam", CameraFactory(arguments.clip, arguments.fps))
    server.attach(None)
    print("ready", flush=True)
    GLib.MainLoop().run()


main()
