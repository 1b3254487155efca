"""`longwatch ask`: ask the running analyzer about what it remembers."""

from typing import TYPE_CHECKING, Annotated

import typer

from deploy.console import AsJson, MaybeConfig, MaybeData, show
from deploy.errors import Failed
from deploy.store import open_store

if TYPE_CHECKING:
    from pathlib import Path


def ask(
    camera: Annotated[str, typer.Argument(help="The name of a camera.")],
    question: Annotated[str, typer.Argument(help="A question that is answered by yes or no.")],
    *,
    config: MaybeConfig = None,
    data: MaybeData = None,
    zone: Annotated[
        str | None, typer.Option(help="The zone of the camera that it is about.")
    ] = None,
    look_back: Annotated[
        str | None, typer.Option(help="How far back to read, say 30m; else all it remembers.")
    ] = None,
    timeout: Annotated[str, typer.Option(help="How long to wait for the reply.")] = "30s",
    text: Annotated[bool, typer.Option("--text", help="Answer in words, too.")] = False,
    as_json: AsJson = False,
) -> None:
    """Ask the running longwatch about what it remembers of a camera."""
    from deploy import asking, report
    from deploy.data import chosen_config
    from storage.asks import reply_fields

    file = chosen_config(config, data)
    if file is not None:
        _check(file, camera, zone)
    wait = asking.duration("--timeout", timeout, asking.LONGEST_WAIT)
    reach = None
    if look_back is not None:
        reach = asking.duration("--look-back", look_back, asking.LONGEST_LOOK)
    with open_store(config, data, writing=True) as store:
        reply = asking.ask(
            store.log, camera, question, look_back=reach, in_words=text, wait=wait, zone=zone
        )
    if reply.refused is not None and not as_json:
        raise Failed(reply.refused)
    show(reply_fields(reply) if as_json else "\n".join(report.reply_lines(reply)))
    if reply.refused is not None:
        raise typer.Exit(1)


def _check(file: "Path", camera: str, zone: str | None) -> None:
    """Raise BadSettings for a camera or a zone that the settings do not name."""
    from deploy import asking
    from deploy.config_file import read_part
    from deploy.parts import ZonesPart

    cameras = read_part(file, ZonesPart).cameras
    asking.check_camera(camera, cameras)
    if zone is not None:
        asking.check_zone(zone, camera, cameras[camera].zones)
