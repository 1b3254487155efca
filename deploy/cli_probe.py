"""`longwatch probe`: what a camera or a video file sends, and what to change in it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deploy.console import AsJson, show, stderr
from deploy.errors import BadSettings, Failed

if TYPE_CHECKING:
    from ingest.camera import Camera
    from ingest.frames import Frame
    from ingest.outlines import Outline
    from ingest.probe_result import Probe


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
    as_json: AsJson = False,
) -> None:
    """Look at a camera: what it sends, how good its time is, and what to change in it.

    It waits for the first picture as long as a watched camera is waited for. Times in the JSON are
    seconds, sizes pixels, and rotation degrees. Exit 1 where the camera is lost meanwhile.
    """
    from deploy.probe_report import probe_fields, probe_parts

    if transport not in (None, "tcp", "udp"):
        raise BadSettings("--transport: choose tcp or udp")
    if still is not None and (still.is_dir() or not still.parent.is_dir()):
        raise BadSettings(f"--still: {still} is no place for a file: name one in a folder")
    looked_at, outlines = _camera(url, config, camera, transport)
    seen = _Last()
    found = _look(looked_at, seconds, seen)
    if still is not None:
        seen.write(still, looked_at, outlines)
    for part in [probe_fields(found)] if as_json else probe_parts(found):
        show(part)
    if found.lost is not None:
        raise Failed(f"the camera was lost while it was looked at: {found.lost}")


def _camera(
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
    from deploy.assemble import camera_of, chosen_camera
    from deploy.config_file import read_settings
    from ingest.outlines import Outline

    settings = read_settings(config)
    chosen = chosen_camera(settings, name)
    found = camera_of(chosen, settings.cameras[chosen])
    outlines = [
        Outline(corners=zone.corners, colour=COLOURS[zone.colour])
        for zone in zones_of(settings.cameras[chosen].zones)
    ]
    return replace(found, transport=transport or found.transport), outlines


def _look(camera: "Camera", seconds: float, see: "Callable[[Frame], None]") -> "Probe":
    """Look at a camera or a file, and show meanwhile what goes on."""
    from ingest.errors import BadAddress
    from ingest.probe import probe as look

    try:
        with _progress() as say:
            return look(
                camera.url,
                transport=camera.transport,
                redirects=camera.redirects,
                seconds=seconds,
                say=say,
                see=see,
            )
    except BadAddress as error:
        raise BadSettings(str(error)) from None


class _Last:
    """The last picture that was seen."""

    def __init__(self) -> None:
        self._frame: Frame | None = None

    def __call__(self, frame: "Frame") -> None:
        self._frame = frame

    def write(self, file: Path, camera: "Camera", outlines: "list[Outline]") -> None:
        """Write it as a still of the camera is kept, with outlines."""
        from ingest.pictures import still_of

        if self._frame is None:
            raise Failed(f"--still: no picture came, and {file} was not written")
        try:
            file.write_bytes(still_of(self._frame, camera, outlines).data)
        except OSError as error:
            raise Failed(f"--still: {file} cannot be written ({error.strerror})") from None


@contextmanager
def _progress() -> Iterator[Callable[[str], None]]:
    """Show on a terminal what goes on and for how long; elsewhere print it once connected."""
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    console = stderr()
    if not console.is_terminal:
        yield _Lines(console.print)
        return
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("")
        yield lambda text: bar.update(task, description=text)


class _Lines:
    """Print each line but the first: a camera that is not there makes one line, its error."""

    def __init__(self, show_line: Callable[[str], None]) -> None:
        self._show, self._is_first = show_line, True

    def __call__(self, text: str) -> None:
        if not self._is_first:
            self._show(text)
        self._is_first = False
