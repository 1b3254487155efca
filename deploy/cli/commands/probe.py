"""`longwatch probe`: what a camera or a video file sends, and what to change in it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deploy.cli.common import JsonOption, show, stderr_console
from deploy.errors import BadSettings, CommandFailed

if TYPE_CHECKING:
    from ingest.camera import Camera
    from ingest.frames import Frame
    from ingest.pictures.outlines import Outline
    from ingest.probe.result import ProbeResult


def probe(
    url: Annotated[
        str | None,
        typer.Argument(help="rtsp://user:password@host/path, or a video file; or name a --camera."),
    ] = None,
    transport: Annotated[
        str | None, typer.Option(help="How RTSP comes: tcp or udp.", show_default="tcp")
    ] = None,
    seconds: Annotated[
        float, typer.Option(min=1, max=300, help="How long to look, from the first picture on.")
    ] = 10.0,
    config: Annotated[
        Path | None,
        typer.Option("--config", "-c", help="The settings file of a --camera.", dir_okay=False),
    ] = None,
    camera: Annotated[
        str | None, typer.Option(help="The camera of the settings file to look at.")
    ] = None,
    still: Annotated[
        Path | None,
        typer.Option(
            help="Write the last picture as its still is kept, masks black.", metavar="JPG"
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Look at a camera: what it sends, how good its time is, and what to change in it.

    It waits for the first picture as long as a watched camera is waited for. Times in the JSON are
    seconds, sizes pixels, and rotation degrees. Exit 1 where the camera is lost meanwhile.
    """
    from deploy.cli.render.probe import probe_fields, probe_parts

    if transport not in (None, "tcp", "udp"):
        raise BadSettings("--transport: choose tcp or udp")
    if still is not None and (still.is_dir() or not still.parent.is_dir()):
        raise BadSettings(f"--still: {still} is no place for a file: name one in a folder")
    target, outlines = _choose_target(url, config, camera, transport)
    last_frame = _LastFrame()
    found = _probe_camera(target, seconds, last_frame)
    if still is not None:
        last_frame.write(still, target, outlines)
    for part in [probe_fields(found)] if as_json else probe_parts(found):
        show(part)
    if found.lost is not None:
        raise CommandFailed(f"the camera was lost while it was looked at: {found.lost}")


def _choose_target(
    url: str | None, config: Path | None, name: str | None, transport: str | None
) -> "tuple[Camera, list[Outline]]":
    """Return the camera to look at, that of a url or one of the settings, and its zones."""
    from ingest.camera import Camera

    if (url is None) == (config is None) or (name is not None and config is None):
        raise BadSettings(
            "say what to look at: a url, a video file, or --config FILE --camera NAME"
        )
    if config is None:
        return Camera(name="", url=url or "", transport=transport or "tcp"), []
    from analyzer.zones import COLOURS, zones_of
    from deploy.config.assemble import build_camera, choose_camera
    from deploy.config.settings_file import read_settings
    from ingest.pictures.outlines import Outline

    settings = read_settings(config)
    chosen = choose_camera(settings, name)
    found = build_camera(chosen, settings.cameras[chosen])
    outlines = [
        Outline(corners=zone.corners, colour=COLOURS[zone.colour])
        for zone in zones_of(settings.cameras[chosen].zones)
    ]
    return replace(found, transport=transport or found.transport), outlines


def _probe_camera(
    camera: "Camera", seconds: float, on_frame: "Callable[[Frame], None]"
) -> "ProbeResult":
    """Look at a camera or a file, and show meanwhile what goes on."""
    from ingest.errors import BadAddress
    from ingest.probe.probe import probe as look

    try:
        with _progress() as say:
            return look(
                camera.url,
                transport=camera.transport,
                redirects=camera.redirects,
                seconds=seconds,
                report=say,
                on_frame=on_frame,
            )
    except BadAddress as error:
        raise BadSettings(str(error)) from None


class _LastFrame:
    """The last picture that was seen."""

    def __init__(self) -> None:
        self._frame: Frame | None = None

    def __call__(self, frame: "Frame") -> None:
        self._frame = frame

    def write(self, file: Path, camera: "Camera", outlines: "list[Outline]") -> None:
        """Write it as a still of the camera is kept, with outlines."""
        from ingest.pictures.stills import still_from_frame

        if self._frame is None:
            raise CommandFailed(f"--still: no picture came, and {file} was not written")
        try:
            file.write_bytes(still_from_frame(self._frame, camera, outlines).data)
        except OSError as error:
            raise CommandFailed(f"--still: {file} cannot be written ({error.strerror})") from None


@contextmanager
def _progress() -> Iterator[Callable[[str], None]]:
    """Show on a terminal what goes on and for how long; elsewhere print it once connected."""
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    console = stderr_console()
    if not console.is_terminal:
        yield _ProgressLines(console.print)
        return
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("")
        yield lambda text: bar.update(task, description=text)


class _ProgressLines:
    """Print each line but the first: a camera that is not there makes one line, its error."""

    def __init__(self, show_line: Callable[[str], None]) -> None:
        self._show_line, self._is_first = show_line, True

    def __call__(self, text: str) -> None:
        if not self._is_first:
            self._show_line(text)
        self._is_first = False
