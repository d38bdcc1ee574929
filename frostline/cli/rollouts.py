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
    from frostline_server.repository.rollout import CANARY, with_canary, with_shadow
    from frostline_server.repository.rollout import promote as promoted

    def step(before: "Rollout | None", there: list[int]) -> "Rollout":
        trial = canary is not None or shadow
        on_trial = None if trial or before is None else before.labels.get(CANARY, before.shadow)
        chosen = version or on_trial or there[-1]
        if chosen not in there:
            raise _refused(f"model {model!r} has no version {chosen}; it has: {', '.join(map(str, there))}")
        if not trial:
            return promoted(before, chosen)
        if canary is not None:
            tried = with_canary(before, chosen, canary)
            return with_shadow(tried, chosen) if shadow else tried
        return with_shadow(before, chosen)

    _change(models, model, step)


def rollback(model: Name, *, models: Models = Path("models")) -> None:
    """End the test of a version, or return to the previous version.

    If a version is being tested, the test ends and the stable version stays. Otherwise, the previous stable version
    becomes stable again.
    """
    from frostline_server.repository.rollout import rollback as rolled_back

    _change(models, model, rolled_back)


def _change(models: Path, model: str, step: "Callable[[Rollout | None, list[int]], Rollout]") -> None:
    from frostline_server.errors import ConfigError
    from frostline_server.model.artifact import is_version
    from frostline_server.regular_files import FileReader
    from frostline_server.repository import rollout as rollouts

    folder = models / model
    if not model or Path(model).name != model or not folder.is_dir():
        there = sorted(path.name for path in models.glob("[!.]*") if path.is_dir())
        raise _refused(f"{models} has no model {model!r}; it has: {', '.join(there) or 'none'}")
    versions = sorted(int(path.name) for path in folder.iterdir() if path.is_dir() and is_version(path.name))
    if not versions:
        raise _refused(f"model {model!r} in {models} has no version")
    try:
        before = rollouts.read(folder, FileReader(folder))
        after = step(before, versions)
        if after != before:
            rollouts.write(folder, after)
    except ConfigError as error:
        raise _refused(f"{model}: {error}") from error
    typer.echo(f"{model}: {describe(after)}")


def describe(rollout: "Rollout") -> str:
    """A rollout as one line of text."""
    parts = []
    for label, version in rollout.labels.items():
        share = f" with {rollout.split[label]:g} % of the traffic" if label in rollout.split else ""
        parts.append(f"version {version} is {label}{share}")
    if rollout.shadow is not None:
        parts.append(f"version {rollout.shadow} gets a copy of the traffic")
    return ", ".join(parts)


def _refused(sentence: str) -> Exception:
    return BadUsage(sentence)
