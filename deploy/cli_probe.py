"""`longwatch probe`: what a camera or a video file sends, and what to change in it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated

import typer

from deploy.console import AsJson, show, stderr
from deploy.errors import BadSettings, Failed


def probe(
    url: Annotated[str, typer.Argument(help="rtsp://user:password@host/path, or a video file.")],
    transport: Annotated[str, typer.Option(help="How RTSP comes: tcp or udp.")] = "tcp",
    seconds: Annotated[
        float, typer.Option(min=1, max=300, help="How long to look, from the first picture on.")
    ] = 10.0,
    as_json: AsJson = False,
) -> None:
    """Look at a camera: what it sends, how good its time is, and what to change in it.

    It waits for the first picture as long as a watched camera is waited for. Times in the JSON are
    seconds, sizes pixels, and rotation degrees. Exit 1 where the camera is lost meanwhile.
    """
    from deploy.probe_report import probe_fields, probe_parts
    from ingest.errors import BadAddress
    from ingest.probe import probe as look

    if transport not in ("tcp", "udp"):
        raise BadSettings("--transport: choose tcp or udp")
    try:
        with _progress() as say:
            found = look(url, transport=transport, seconds=seconds, say=say)
    except BadAddress as error:
        raise BadSettings(str(error)) from None
    for part in [probe_fields(found)] if as_json else probe_parts(found):
        show(part)
    if found.lost is not None:
        raise Failed(f"the camera was lost while it was looked at: {found.lost}")


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
