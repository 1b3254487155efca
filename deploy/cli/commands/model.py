"""`longwatch model`: fetch models, and inspect them."""

from typing import Annotated

import typer

from deploy.cli.common import JsonOption, show

model = typer.Typer(no_args_is_help=True, help="Fetch and inspect models.")


@model.command("fetch")
def fetch_model(
    repository: Annotated[str, typer.Argument(help="A model on the hub: OWNER/NAME.")],
    revision: Annotated[str, typer.Option(help="A branch, a tag or a commit.")] = "main",
    as_json: JsonOption = False,
) -> None:
    """Download a model and verify every byte; nothing is fetched at run time."""
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
        str | None, typer.Option(help="A branch, a tag or a commit. Default: main.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Check whether a model would load, without its weights; exit 1 if it would not."""
    from analyzer.models.inspect import inspect
    from deploy.cli.render import model

    found = inspect(name, revision)
    if as_json:
        show(model.inspection_fields(found))
    else:
        show("\n".join(model.inspection_lines(found)))
    if not found.is_loadable:
        raise typer.Exit(1)
