"""`longwatch ask`: ask the running analyzer about its memory of a camera."""

from typing import TYPE_CHECKING, Annotated

import typer

from deploy.cli.common import DataOption, JsonOption, OptionalConfigOption, show
from deploy.cli.store import DataOptions, open_store
from deploy.errors import CommandFailed

if TYPE_CHECKING:
    from pathlib import Path


def ask(
    camera: Annotated[str, typer.Argument(help="The name of a camera.")],
    question: Annotated[str, typer.Argument(help="A yes-or-no question.")],
    *,
    config: OptionalConfigOption = None,
    data: DataOption = None,
    zone: Annotated[str | None, typer.Option(help="The zone that the question is about.")] = None,
    look_back: Annotated[
        str | None, typer.Option(help="How far back to look, say 30m. Default: the whole memory.")
    ] = None,
    timeout: Annotated[str, typer.Option(help="How long to wait for the reply.")] = "30s",
    text: Annotated[bool, typer.Option("--text", help="Answer in words, too.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Ask the running longwatch about its memory of a camera."""
    from deploy.cli import ask_client
    from deploy.cli.ask_client import MAX_LOOK_BACK, MAX_WAIT, parse_duration_option
    from deploy.cli.render.reply import reply_lines
    from storage.records.query_wire import reply_fields

    options = DataOptions(config, data)
    file = options.find_config()
    if file is not None:
        _check_names(file, camera, zone)
    wait = parse_duration_option("--timeout", timeout, MAX_WAIT)
    span = None
    if look_back is not None:
        span = parse_duration_option("--look-back", look_back, MAX_LOOK_BACK)
    with open_store(options, is_writing=True) as store:
        reply = ask_client.ask(
            store.log,
            camera,
            question,
            look_back=span,
            in_words=text,
            wait=wait,
            zone=zone,
        )
    if reply.refused is not None and not as_json:
        raise CommandFailed(reply.refused)
    show(reply_fields(reply) if as_json else "\n".join(reply_lines(reply)))
    if reply.refused is not None:
        raise typer.Exit(1)


def _check_names(file: "Path", camera: str, zone: str | None) -> None:
    """Raise BadSettings for an unknown camera or zone."""
    from deploy.cli import ask_client
    from deploy.config.partial_settings import ZonesSubset
    from deploy.config.settings_file import read_subset

    cameras = read_subset(file, ZonesSubset).cameras
    ask_client.check_camera(camera, cameras)
    if zone is not None:
        ask_client.check_zone(zone, camera, cameras[camera].zones)
