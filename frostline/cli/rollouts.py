"""The `frostline promote` and `frostline rollback` commands. Each changes the rollout.json of a model."""

# ruff: noqa: PLC0415 - the command line imports this module for its options alone

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from frostline.cli.usage import BadUsage

if TYPE_CHECKING:
    from frostline_server.repository.rollout import Rollout

Name = Annotated[str, typer.Argument(help="The name of the model.", show_default=False)]
Models = Annotated[Path, typer.Option(help="The folder of models.")]


def promote(
    model: Name,
    version: Annotated[
        int | None,
        typer.Argument(
            min=1,
            help="The version. By default, the newest; without --canary and --shadow, the version being tested, if there is one.",
            show_default=False,
        ),
    ] = None,
    *,
    models: Models = Path("models"),
    canary: Annotated[
        float | None,
        typer.Option(metavar="PERCENT", help="Test the version: give it this share of the traffic."),
    ] = None,
    shadow: Annotated[
        bool,
        typer.Option("--shadow", help="Test the version: give it a copy of the traffic and count different answers."),
    ] = False,
) -> None:
    """Make a version stable, or test it beside the stable version.

    The stable version answers the requests that name no version. With --canary, the tested version answers a share of
    these requests and has the label canary. With --shadow, its answers are compared and never sent to clients. By
    default, the newest version is tested.

    The running servers of the folder notice the change. No request fails because of it.
    """
    from frostline_server.repository.rollout import next_step

    _change(models, model, lambda before, there: next_step(before, there, version, canary=canary, shadow=shadow))


def rollback(model: Name, *, models: Models = Path("models")) -> None:
    """End the test of a version, or return to the previous version.

    If a version is being tested, the test ends and the stable version stays. Otherwise, the previous stable version
    becomes stable again.
    """
    from frostline_server.repository.rollout import rollback as rolled_back

    _change(models, model, rolled_back)


def _change(models: Path, model: str, step: "Callable[[Rollout | None, list[int]], Rollout]") -> None:
    from frostline_server.errors import ConfigError
    from frostline_server.regular_files import FileReader
    from frostline_server.repository import rollout as rollouts

    folder = models / model
    if not model or Path(model).name != model or not folder.is_dir():
        there = sorted(path.name for path in models.glob("[!.]*") if path.is_dir())
        raise _refused(f"{models} has no model {model!r}; it has: {', '.join(there) or 'none'}")
    try:
        after = rollouts.change(folder, FileReader(folder), step)
    except ConfigError as error:
        raise _refused(f"{model}: {error}") from error
    typer.echo(f"{model}: {after.told}")


def _refused(sentence: str) -> Exception:
    return BadUsage(sentence)
