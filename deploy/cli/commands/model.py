"""`longwatch model`: bring models here, and say whether one would load."""

from typing import Annotated

import typer

from deploy.cli.common import JsonOption, show

model = typer.Typer(no_args_is_help=True, help="Bring models here, and look at them.")


@model.command("fetch")
def fetch_model(
    repository: Annotated[str, typer.Argument(help="A model on the hub: OWNER/NAME.")],
    revision: Annotated[str, typer.Option(help="A branch, a tag or a commit.")] = "main",
    as_json: JsonOption = False,
) -> None:
    """Download a model once and check every byte; at run time nothing is fetched."""
    from analyzer.models.files import ModelFiles
    from analyzer.models.hub import fetch
    from deploy.cli.render import model

    folder, manifest = fetch(repository, revision)
    ModelFiles.open(folder)
    report = model.fetch_fields if as_json else model.fetch_line
    show(report(folder, manifest, revision))


@model.command("inspect")
def inspect_model(
    name: Annotated[str, typer.Argument(help="OWNER/NAME on the hub, a folder, or nano.")],
    revision: Annotated[
        str | None, typer.Option(help="A branch, a tag or a commit; else main.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Say whether a model would load, and why not; reads no weights; exit 1 where it would not."""
    from analyzer.models.inspect import inspect
    from deploy.cli.render import model

    found = inspect(name, revision)
    if as_json:
        show(model.inspection_fields(found))
    else:
        show("\n".join(model.inspection_lines(found)))
    if not found.is_loadable:
        raise typer.Exit(1)
