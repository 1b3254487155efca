"""`longwatch probe`: inspect the stream of a camera or a video file."""

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
        typer.Argument(
            help="rtsp://user:password@host/path, or a video file, instead of --camera."
        ),
    ] = None,
    transport: Annotated[
        str | None, typer.Option(help="The transport of RTSP: tcp or udp.", show_default="tcp")
    ] = None,
    seconds: Annotated[
        float, typer.Option(min=1, max=300, help="How long to watch, from the first picture on.")
    ] = 10.0,
    config: Annotated[
        Path | None,
        typer.Option("--config", "-c", help="The settings file of a --camera.", dir_okay=False),
    ] = None,
    camera: Annotated[str | None, typer.Option(help="A camera of the settings file.")] = None,
    still: Annotated[
        Path | None,
        typer.Option(
            help="Write the last picture as a still, with masks and zones.", metavar="JPG"
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Inspect a camera: its stream, its clock, and what to change in it.

    JSON has seconds, pixels and degrees. Exit 1 if the camera is lost meanwhile.
    """
    from deploy.cli.render.probe import probe_fields, probe_parts

    if transport not in (None, "tcp", "udp"):
        raise BadSettings("--transport: choose tcp or udp")
    if still is not None and (still.is_dir() or not still.parent.is_dir()):
        raise BadSettings(f"--still: {still} cannot be a file: name one in an existing folder")
    target, outlines = _choose_target(url, config, camera, transport)
    last_frame = _LastFrame()
    found = _probe_camera(target, seconds, last_frame)
    if still is not None:
        last_frame.write(still, target, outlines)
    for part in [probe_fields(found)] if as_json else probe_parts(found):
        show(part)
    if found.lost is not None:
        raise CommandFailed(f"the camera was lost: {found.lost}")


def _choose_target(
    url: str | None, config: Path | None, name: str | None, transport: str | None
) -> "tuple[Camera, list[Outline]]":
    """Return the camera of a url or of the settings, and the outlines of its zones."""
    from ingest.camera import Camera

    if (url is None) == (config is None) or (name is not None and config is None):
        raise BadSettings("name a url, a video file, or --config FILE --camera NAME")
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
    """Probe a camera or a file, and show the progress."""
    from ingest.errors import BadAddress
    from ingest.probe import probe as prober

    try:
        with _progress() as report:
            return prober.probe(
                camera.url,
                transport=camera.transport,
                redirects=camera.redirects,
                seconds=seconds,
                report=report,
                on_frame=on_frame,
            )
    except BadAddress as error:
        raise BadSettings(str(error)) from None


class _LastFrame:
    """The last picture that came."""

    def __init__(self) -> None:
        self._frame: Frame | None = None

    def __call__(self, frame: "Frame") -> None:
        self._frame = frame

    def write(self, file: Path, camera: "Camera", outlines: "list[Outline]") -> None:
        """Write it as a still of the camera, with outlines."""
        from ingest.pictures.stills import still_from_frame

        if self._frame is None:
            raise CommandFailed(f"--still: no picture came, and {file} was not written")
        try:
            file.write_bytes(still_from_frame(self._frame, camera, outlines).data)
        except OSError as error:
            raise CommandFailed(f"--still: {file} cannot be written ({error.strerror})") from None


@contextmanager
def _progress() -> Iterator[Callable[[str], None]]:
    """Show the progress on a terminal; elsewhere print it once connected."""
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
    """Print each line but the first: a missing camera then prints only its error."""

    def __init__(self, show_line: Callable[[str], None]) -> None:
        self._show_line, self._is_first = show_line, True

    def __call__(self, text: str) -> None:
        if not self._is_first:
            self._show_line(text)
        self._is_first = False
