"""The command-line interface: the commands of `frostline`."""

# ruff: noqa: PLC0415 - a command imports what it needs and nothing else: torch, ONNX Runtime and gRPC are slow to load

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, NoReturn

import typer

from frostline.cli import rollouts, serve, show
from frostline.cli.usage import BadUsage, CannotDo

if TYPE_CHECKING:
    from frostline.client.connection import Client

app = typer.Typer(
    name="frostline",
    help="Train networks in PyTorch, and serve them over gRPC with the proof that they answer as trained.",
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


Models = Annotated[Path, typer.Option(help="Folder of models.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]
Seed = Annotated[int | None, typer.Option(min=0, help="Seed of everything random.  [the recipe's own]")]
Server = Annotated[str, typer.Option(help="The server's address, host:port.", envvar="FROSTLINE_SERVER")]
TlsCa = Annotated[Path | None, typer.Option(help="PEM certificates to trust; turns TLS on.")]
TimeoutS = Annotated[float, typer.Option(min=0.001, help="Seconds a call may take.")]


def _examples(*lines: str) -> str:
    # The backspace keeps the command line's formatter from joining the lines.
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)


def _print_version(wanted: bool) -> None:
    if wanted:
        from frostline import __version__

        typer.echo(f"frostline {__version__}")
        raise typer.Exit


@app.callback(
    invoke_without_command=True,
    epilog=_examples("frostline demo", "frostline train digits", "frostline serve --models models"),
)
def _frostline(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", help="Show the version.", is_eager=True, callback=_print_version)
    ] = False,
) -> None:
    del version
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


@app.command(
    epilog=_examples(
        "frostline train digits",
        "frostline train --list",
        "frostline train digits-lstm --set epochs=5 --set hidden=64,32",
        "frostline train my_recipe.py --models models --device cuda",
        "frostline train digits --resume",
    ),
)
def train(
    recipe: Annotated[
        str, typer.Argument(help="A recipe's name, or a file.py that holds one; --list names all.", show_default=False)
    ] = "",
    *,
    models: Models = Path("models"),
    device: Device = "auto",
    seed: Seed = None,
    changes: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="Change a setting of the recipe; may be given again."),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with an interrupted run.")] = False,
    precision: Annotated[
        list[str] | None,
        typer.Option(metavar="fp16|int8", help="Also publish a smaller variant of the model; may be given again."),
    ] = None,
    bound: Annotated[float, typer.Option(min=0, help="Points of the test score that a variant may lose.")] = 0.5,
    tensorboard: Annotated[bool, typer.Option("--tensorboard", help="Write TensorBoard's logs too.")] = False,
    runs: Annotated[Path, typer.Option(help="Folder of runs: metrics and checkpoints.")] = Path("runs"),
    show_list: Annotated[bool, typer.Option("--list", help="List the recipes.")] = False,
) -> None:
    """Train a recipe, check the frozen network against PyTorch, and publish it as the model's next version."""
    from rich.console import Console

    try:
        from frostline_training.config import RECIPES

        if show_list:
            for name, each in RECIPES.items():
                typer.echo(f"{name:20} {getattr(each.network, 'kind', each.network.family):12} on {each.data}")
            return
        if not recipe.endswith(".py") and recipe not in RECIPES:
            missing = f"no such recipe {recipe!r}" if recipe else "which recipe?"
            raise BadUsage(f"{missing}; there are: {', '.join(sorted(RECIPES))}")
        from frostline_training import overrides
        from frostline_training import pipeline as job
        from frostline_training.errors import DataError, SettingError, TrainingError
    except ModuleNotFoundError as error:
        _needs_training(error)
    wanted = [*(changes or ()), *([] if seed is None else [f"seed={seed}"])]
    try:
        job.run(
            overrides.choose(recipe, wanted),
            models=models,
            device=device,
            console=Console(),
            runs=runs,
            resume=resume,
            tensorboard=tensorboard,
            precision=overrides.precisions(precision or ()),
            bound=bound,
        )
    except (DataError, SettingError) as error:
        raise BadUsage(str(error)) from error
    except TrainingError as error:
        raise CannotDo(str(error)) from error


app.command(
    cls=serve.ServeCommand,
    epilog=_examples(
        "frostline serve --models models",
        "frostline serve --models /srv/models --host 0.0.0.0 --device cuda",
        "frostline serve --config frostline.toml --log-format json",
    ),
)(serve.serve)


@app.command(
    epilog=_examples(
        "frostline predict photos cat.png --top 3",
        "frostline predict digits seven.png --white 16",
        "frostline predict digits models/digits/1/golden.npz",
        "frostline predict iris flowers.csv --format csv > answers.csv",
        "frostline predict churn customers.csv --card models/churn/1/card.json",
        "cat rows.npy | frostline predict digits - --server gpu-box:8001 --format json",
    ),
)
def predict(
    model: Annotated[str, typer.Argument(help="The model's name.")],
    inputs: Annotated[
        list[str], typer.Argument(metavar="INPUT", help="Files of rows: npy, npz, csv or png; - reads csv or npy.")
    ],
    *,
    server: Server = "localhost:8001",
    model_version: Annotated[
        str, typer.Option(help="The version: a number or a label; if not given, the one that answers such requests.")
    ] = "",
    top: Annotated[
        int, typer.Option(min=1, max=2**32 - 1, help="Show this many of each row's most probable classes.")
    ] = 1,
    form: Annotated[Literal["table", "json", "csv"], typer.Option("--format", help="How to show them.")] = "table",
    white: Annotated[
        float | None, typer.Option(help="What a white pixel of a picture is to the model; 255, as it is, if not given.")
    ] = None,
    card: Annotated[
        Path | None, typer.Option(help="The model's card.json: csv columns by name, and words where it has categories.")
    ] = None,
    tls_ca: TlsCa = None,
    timeout_s: TimeoutS = 30.0,
) -> None:
    """Send rows to a server and show what they are.

    A csv file may have a header, and its columns fill the model's input in row-major order.  A picture is sent as
    gray or colour, as the model's input asks, its pixels as they are or scaled by --white; it is never resized.
    """
    from frostline.cli import inputs as files
    from frostline.tables import write_predictions

    with _client(server, tls_ca, timeout_s) as client:
        served = client.model(model, version=model_version)
        try:
            arrays, sources = files.read(inputs, served, sys.stdin.buffer, white=white, card=card)
        except files.InputError as error:
            raise BadUsage(str(error)) from error
        step = served.max_batch_size or len(sources)
        rows = []
        for start in range(0, len(sources), step):
            part = {name: array[start : start + step] for name, array in arrays.items()}
            # All parts are answered by the version whose limits and shapes they were made for.
            rows += client.predict(model, part, version=served.version, top_k=top).top(top)
    write_predictions(rows, sources, served, form, sys.stdout)


@app.command(name="models", epilog=_examples("frostline models", "frostline models --server gpu-box:8001"))
def list_models(
    server: Server = "localhost:8001",
    form: Annotated[Literal["table", "json"], typer.Option("--format", help="How to show them.")] = "table",
    tls_ca: TlsCa = None,
    timeout_s: TimeoutS = 30.0,
) -> None:
    """Show every model version of a server: its state, and its input or why it is not ready."""
    from frostline.tables import write_models

    with _client(server, tls_ca, timeout_s) as client:
        write_models(client.models(), form, sys.stdout)


app.command(name="show", epilog=_examples("frostline show digits", "frostline show digits --open"))(show.command)

app.command(
    epilog=_examples(
        "frostline promote digits 3",
        "frostline promote digits 4 --shadow",
        "frostline promote digits 4 --canary 5",
        "frostline promote digits",
    )
)(rollouts.promote)
app.command(epilog=_examples("frostline rollback digits"))(rollouts.rollback)


@app.command(epilog=_examples("frostline demo", "frostline demo --models /tmp/models"))
def demo(models: Models = Path("models"), device: Device = "auto", seed: Seed = None) -> None:
    """Train on real data, publish, serve, predict held-out pictures, and show the answers and the metrics."""
    from rich.console import Console

    try:
        from frostline.cli import demo as shown
        from frostline_training.errors import TrainingError
    except ModuleNotFoundError as error:
        _needs_training(error)
    try:
        shown.run(models=models, device=device, seed=seed, console=Console())
    except (shown.DemoFailed, TrainingError) as error:
        raise CannotDo(str(error)) from error


@app.command(
    epilog=_examples(
        "frostline tune digits --slo-ms 5",
        "frostline tune digits --models /srv/models --slo-ms 20 --seconds 15 --dry-run",
    )
)
def tune(
    model: Annotated[str, typer.Argument(help="The model's name.")],
    *,
    models: Models = Path("models"),
    slo_ms: Annotated[
        float, typer.Option(min=0.01, help="Milliseconds within which 99 % of the answers must be.")
    ] = 10.0,
    seconds: Annotated[float, typer.Option(min=0.1, help="Seconds of load for each candidate.")] = 6.0,
    device: Device = "auto",
    picture: Annotated[Path | None, typer.Option(help="Where to draw it.  [MODEL-tune.png]")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the best configuration and do not write it.")
    ] = False,
) -> None:
    """Find the batch size, instances and threads with which a model answers most requests within a limit.

    Each candidate is a real server under open-loop load, so nothing else should run on the machine.  The best one's
    settings are written to the model's config.pbtxt; everything else in that file stays.
    """
    from rich.console import Console

    try:
        from frostline.tune import tuner
    except ModuleNotFoundError as error:
        if error.name != "hpack":
            raise
        raise CannotDo("tuning needs hpack, which is not installed: pip install 'frostline[tune]'") from error
    job = tuner.Job(models, model, slo_ms, seconds, device, not dry_run, picture or Path(f"{model}-tune.png"))
    try:
        tuner.run(job, Console())
    except tuner.NoSuchModel as error:
        raise BadUsage(str(error)) from error
    except tuner.CannotTune as error:
        raise CannotDo(str(error)) from error


def _client(server: str, tls_ca: Path | None, timeout_s: float) -> "Client":
    # gRPC's own log would come between the user and the one sentence that says what is wrong.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    from frostline.client.connection import connect

    try:
        return connect(server, timeout_s=timeout_s, tls=tls_ca or False)
    except ValueError as error:
        raise BadUsage(str(error)) from error
    except OSError as error:
        raise BadUsage(f"cannot read {tls_ca}: {error.strerror}") from error


def _needs_training(error: ModuleNotFoundError) -> NoReturn:
    package = (error.name or "").partition(".")[0]
    if package.startswith("frostline"):
        raise error
    raise CannotDo(f"training needs {package}, which is not installed: pip install 'frostline[train]'") from error


def run(arguments: Sequence[str]) -> int:
    """Runs the command line.

    Args:
        arguments: What was typed after `frostline`.

    Returns:
        The exit code: 0 when it was done, 1 when it could not be, 2 when it was typed wrongly, 130 after Ctrl-C.
    """
    from frostline.client.errors import FrostlineError

    try:
        code = app(list(arguments), prog_name="frostline", standalone_mode=False)
    except typer.TyperException as error:
        return _refuse(error.format_message(), error.exit_code)
    except BadUsage as error:
        return _refuse(str(error), 2)
    except (CannotDo, FrostlineError) as error:
        return _refuse(str(error), 1)
    except (typer.Abort, KeyboardInterrupt):
        return 130
    return int(code or 0)


def _refuse(sentence: str, code: int) -> int:
    words = " ".join(sentence.split()).replace("Value error, ", "").rstrip(".")
    if words[:2].istitle():
        words = words[0].lower() + words[1:]
    sys.stderr.write(f"frostline: {words}\n")
    return code


def main() -> NoReturn:
    """Runs the command line of this process and exits."""
    sys.exit(run(sys.argv[1:]))
