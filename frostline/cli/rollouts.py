"""The `frostline promote` and `frostline rollback` commands. Each changes the rollout.json of a model."""

# ruff: noqa: PLC0415 - the command line imports this module for its options alone

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from frostline.cli.connection import TokenFile
from frostline.cli.usage import BadUsage, CannotDo

if TYPE_CHECKING:
    from frostline_server.repository.rollout import Rollout
    from frostline_server.repository.take_back import TakeBack

    Step = Callable[[Rollout | None, list[int]], Rollout]

Name = Annotated[str, typer.Argument(help="The name of the model.", show_default=False)]
Models = Annotated[Path, typer.Option(help="The folder of models.")]
Expected = Annotated[
    int | None,
    typer.Option(min=1, help="Refuse if another version than this one is live by now.", show_default=False),
]

GIVEN_UP = 3
"""The exit code of a promotion that was given up, because the tested version did not agree in time."""
_FOLLOWING = ("rows", "within", "metrics", "token_file")
"""What only a promotion takes that waits for agreement."""
_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0}


def promote(
    context: typer.Context,
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
    take_back: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=LIMIT",
            help="Have the server end the test by itself if the canary is worse: errors=0.01 (so many more of its requests "
            "fail), latency=1.5 (they take so many times as long), disagreement=0.02 (so many rows differ; needs --shadow), "
            "min_samples=500 (not before so many). Can be repeated.",
        ),
    ] = None,
    expected: Expected = None,
    when_agreeing: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            max=1.0,
            metavar="SHARE",
            help="Wait until so many of the compared rows have the same answer, then promote the tested version.",
        ),
    ] = None,
    rows: Annotated[int, typer.Option(min=1, help="With --when-agreeing: how many rows to compare.")] = 1000,
    within: Annotated[
        str, typer.Option(metavar="TIME", help="With --when-agreeing: how long to wait, such as 90s, 10m or 2h.")
    ] = "10m",
    metrics: Annotated[
        str, typer.Option(metavar="URL", help="With --when-agreeing: the metrics of the server, where it counts.")
    ] = "http://localhost:8002/metrics",
    token_file: TokenFile = None,
) -> None:
    """Make a version stable, or test it beside the stable version.

    The stable version answers the requests that name no version. With --canary, the tested version answers a share of
    these requests and has the label canary. With --shadow, its answers are compared and never sent to clients. By
    default, the newest version is tested.

    The running servers of the folder notice the change. No request fails because of it.

    With --when-agreeing, the command follows the comparison of the shadow in the metrics of a server. It promotes the
    shadow as soon as enough rows were compared and enough of them agree. It gives up if they do not agree, if the time is
    over, or if somebody else changes the rollout; the test then goes on as before.

    The exit code is 0 if the version is what was asked for, 1 if the rollout has been changed meanwhile or cannot be
    followed, 2 for wrong usage, which includes a model without a shadow, and 3 if a promotion was given up.
    """
    from frostline_server.repository.rollout_steps import next_step

    rule = _rule(take_back or ())
    if when_agreeing is None:
        needless = [f"--{name.replace('_', '-')}" for name in _FOLLOWING if _is_given(context, name)]
        if needless:
            raise BadUsage(
                f"{', '.join(needless)}: only --when-agreeing takes it; say how many must agree with --when-agreeing"
            )
    if when_agreeing is not None:
        if canary is not None or shadow or rule is not None:
            raise BadUsage("--when-agreeing follows a test that goes on; begin the test first, without it")
        from frostline.cli import agreement

        wanted = agreement.Wanted(when_agreeing, rows, _seconds(within))
        fetch = agreement.scraper(metrics, token_file)
        if not agreement.promote_when_agreeing(_folder(models, model), version, wanted, fetch):
            raise typer.Exit(GIVEN_UP)
        return
    _change(
        models,
        model,
        lambda before, there: next_step(before, there, version, canary=canary, shadow=shadow, take_back=rule),
        expected,
    )


def _is_given(context: typer.Context, name: str) -> bool:
    """Whether an option is on the command line."""
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def rollback(model: Name, *, models: Models = Path("models"), expected: Expected = None) -> None:
    """End the test of a version, or return to the previous version.

    If a version is being tested, the test ends and the stable version stays. Otherwise, the previous stable version
    becomes stable again.
    """
    from frostline_server.repository.rollout_steps import rollback as rolled_back

    _change(models, model, rolled_back, expected)


def _folder(models: Path, model: str) -> Path:
    folder = models / model
    if not model or Path(model).name != model or not folder.is_dir():
        there = sorted(path.name for path in models.glob("[!.]*") if path.is_dir())
        raise BadUsage(f"{models} has no model {model!r}; it has: {', '.join(there) or 'none'}")
    return folder


def _change(models: Path, model: str, step: "Step", expected: int | None) -> None:
    from frostline_server.errors import ConfigError
    from frostline_server.regular_files import FileReader
    from frostline_server.repository import rollout as rollouts

    folder = _folder(models, model)
    try:
        after = rollouts.change(folder, FileReader(folder), step, expected)
    except rollouts.RolloutChanged as error:
        raise CannotDo(f"{model}: {error}") from error
    except ConfigError as error:
        raise BadUsage(f"{model}: {error}") from error
    typer.echo(f"{model}: {after.told}")


def _rule(limits: Sequence[str]) -> "TakeBack | None":
    from frostline_server.errors import ConfigError
    from frostline_server.repository.take_back import TakeBack

    if not limits:
        return None
    document: dict[str, float] = {}
    for limit in limits:
        name, _, number = limit.partition("=")
        if name in document:
            raise BadUsage(
                f"--take-back {limit}: {name} has the limit {document[name]:g} already; leave out one of them"
            )
        try:
            document[name] = int(number) if name == "min_samples" else float(number)
        except ValueError as error:
            raise BadUsage(f"--take-back {limit}: expected NAME=LIMIT, such as errors=0.01") from error
    try:
        return TakeBack.parse(document)
    except ConfigError as error:
        raise BadUsage(f"--take-back: {error}") from error


def _seconds(text: str) -> float:
    found = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)([smh])", text)
    if not found:
        raise BadUsage(f"--within {text}: expected a number and its unit, s, m or h, such as 10m")
    return float(found[1]) * _UNITS[found[2]]
