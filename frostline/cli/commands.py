"""The commands of `frostline`, apart from those that have a module of their own."""

# ruff: noqa: PLC0415 - a command imports what it needs and nothing else: torch, ONNX Runtime and gRPC are slow to load

import re
import sys
from pathlib import Path
from typing import Annotated, Literal, NoReturn

import typer

from frostline.cli import browser, rollouts, serve, show, tokens
from frostline.cli.connection import (
    Certificate,
    Connection,
    InsecureToken,
    Key,
    Server,
    ServerName,
    TimeoutS,
    Tls,
    TlsCa,
    TokenFile,
)
from frostline.cli.usage import BadUsage, CannotDo

app = typer.Typer(
    name="frostline",
    help="Train neural networks in PyTorch and serve them over gRPC. Frostline proves that a served network answers as trained.",
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


Models = Annotated[Path, typer.Option(help="The folder of models.")]


def _known_device(device: str) -> str:
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", device):
        raise BadUsage(f"--device must be auto, cpu, cuda or cuda:N, got {device!r}")
    return device


Device = Annotated[str, typer.Option(help="Where to compute: auto, cpu, cuda or cuda:N.", callback=_known_device)]
Seed = Annotated[
    int | None, typer.Option(min=0, help="The seed of the training, not of the split.  [default: the recipe's seed]")
]


def _examples(*lines: str) -> str:
    # The backspace keeps the formatter of the help text from joining the lines.
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
        "frostline train digits --stage",
        "frostline train digits-lstm --if-better accuracy:0.005",
    ),
)
def train(
    recipe: Annotated[
        str, typer.Argument(help="The name of a recipe, or a Python file that contains one.", show_default=False)
    ] = "",
    *,
    models: Models = Path("models"),
    device: Device = "auto",
    seed: Seed = None,
    changes: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="Change a setting of the recipe. Can be repeated."),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue an interrupted run.")] = False,
    precision: Annotated[
        list[str] | None,
        typer.Option(metavar="fp16|int8", help="Also publish a smaller variant of the model. Can be repeated."),
    ] = None,
    bound: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=100,
            help="With --precision: how many points the test score of a variant may be lower. One point is 0.01 of the score.  "
            "[default: 0.5]",
        ),
    ] = None,
    stage: Annotated[
        bool,
        typer.Option("--stage", help="Publish the version without making it live: the one that answers now goes on."),
    ] = False,
    if_better: Annotated[
        str | None,
        typer.Option(
            metavar="METRIC[:MARGIN]",
            help="Make the version live only if it scores better than the live one on the same held-out rows, by this margin. "
            "Otherwise it is staged, and the exit code is 3.",
        ),
    ] = None,
    tensorboard: Annotated[bool, typer.Option("--tensorboard", help="Also write logs for TensorBoard.")] = False,
    runs: Annotated[Path, typer.Option(help="The folder of runs, for metrics and checkpoints.")] = Path("runs"),
    show_list: Annotated[bool, typer.Option("--list", help="List the built-in recipes and exit.")] = False,
) -> None:
    """Train a recipe and publish the result as a new version.

    Frostline exports the trained network to ONNX and compares the answers of this file with PyTorch's. It publishes the
    file only if they agree.

    A version that is staged answers only requests that name it. `frostline promote` makes it live, or tries it first. The
    first version of a model is always live.

    The exit code is 0 if the version and its variants are published, 1 if one cannot be (the others are), 2 for wrong usage,
    which includes a live version that --if-better cannot compare with, and 3 if --if-better staged it.
    """
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
    if stage and if_better is not None:
        raise BadUsage("--stage never makes the version live, and --if-better sometimes does; leave out one of them")
    if bound is not None and not precision:
        raise BadUsage("--bound is for --precision: name the variants that it bounds, or leave it out")
    also = [change for change in changes or () if change.partition("=")[0] == "seed"]
    if seed is not None and also:
        raise BadUsage(f"--seed {seed} and --set {also[0]} set the same: leave out one of them")
    wanted = [*(changes or ()), *([] if seed is None else [f"seed={seed}"])]
    try:
        published = job.run(
            overrides.choose(recipe, wanted),
            models=models,
            device=device,
            console=Console(),
            runs=runs,
            resume=resume,
            tensorboard=tensorboard,
            precision=overrides.precisions(precision or ()),
            bound=0.5 if bound is None else bound,
            stage=stage,
            if_better=if_better,
        )
    except (DataError, SettingError) as error:
        raise BadUsage(str(error)) from error
    except TrainingError as error:
        raise CannotDo(str(error)) from error
    if if_better is not None and not published.live:
        raise typer.Exit(3)


app.command(
    cls=serve.ServeCommand,
    epilog=_examples(
        "frostline serve --models models",
        "frostline serve --models /srv/models --host 0.0.0.0 --access-file access.toml",
        "frostline serve --config frostline.toml --log-format json",
    ),
)(serve.serve)


@app.command(
    epilog=_examples(
        "frostline predict photos cat.png --top 3",
        "frostline predict digits seven.png --white 16",
        "frostline predict digits models/digits/1/golden.npz",
        "frostline predict iris flowers.csv --format csv > probabilities.csv",
        "frostline predict churn customers.csv",
        "cat rows.npy | frostline predict digits - --server gpu-box:8001 --format json",
    ),
)
def predict(
    model: Annotated[str, typer.Argument(help="The name of the model.")],
    inputs: Annotated[
        list[str],
        typer.Argument(
            metavar="INPUT",
            help='Files with rows: csv, parquet, npy, npz or pictures. Use "-" to read csv, npy, npz or a picture from standard '
            "input.",
        ),
    ],
    *,
    server: Server = "localhost:8001",
    model_version: Annotated[
        str, typer.Option(help="The version: a number or a label. By default, the server chooses the version.")
    ] = "",
    top: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Show so many of the most probable classes or labels of each row, one on each line.  [default: the answer, "
            "beside the probabilities of all]",
            show_default=False,
        ),
    ] = None,
    form: Annotated[
        Literal["table", "json", "csv"],
        typer.Option(
            "--format",
            help="The output format. In json, a number that is NaN or infinite is null. A table shows the "
            "probabilities of all classes only where there is room.",
        ),
    ] = "table",
    white: Annotated[
        float | None,
        typer.Option(help="The value of a white pixel for the model. By default, pixels are sent unchanged, 0 to 255."),
    ] = None,
    card: Annotated[
        Path | None,
        typer.Option(
            help="The model's card.json, for models that take no raw rows. With it, csv columns are matched by name, and "
            "categories are given as words."
        ),
    ] = None,
    tls: Tls = False,
    tls_ca: TlsCa = None,
    server_name: ServerName = "",
    certificate: Certificate = None,
    key: Key = None,
    token_file: TokenFile = None,
    insecure_token: InsecureToken = False,
    timeout_s: TimeoutS = 30.0,
) -> None:
    """Send rows to a server and show the predictions.

    Each row has the id FILE:NUMBER; the first row of a file is number 0. With --format csv, each line of a classifier has
    the id, the class that is the answer and its probability, and then the probability of every class, in columns with
    the labels, or class_0, class_1 and so on. A row whose probabilities are NaN has no answer. docs/clients.md describes
    the formats of every task.

    The golden.npz of a version can be sent as it is. From any other npz file, the arrays are taken that have the names of
    the model's inputs. Numbers are converted to the model's types if none of them changes; floats are rounded.

    A model that was trained on a table takes the csv or Parquet file that it was trained on, or one like it. Columns are
    matched by name, and others are ignored, such as the target. Missing, unknown and unusual cells are counted on standard
    error. For any other model, a csv file may have a header, and its columns fill the model's input in row-major order.

    A model that was trained on a folder of pictures takes pictures of any size and with any name: png, jpg or webp. The
    server brings them to the model's size.

    For any other model, a picture is converted to gray or colour, depending on the model's input. Its pixels are sent unchanged, or scaled
    by --white. It is never resized.
    """
    from frostline.cli import answers
    from frostline.cli import inputs as files
    from frostline.tables import write_predictions

    connection = Connection(
        server=server,
        tls=tls,
        tls_ca=tls_ca,
        server_name=server_name,
        certificate=certificate,
        key=key,
        token_file=token_file,
        insecure_token=insecure_token,
        timeout_s=timeout_s,
    )
    with connection.client() as client:
        served = client.model(model, version=model_version)
        chooses = answers.chooses(served)
        ranks = chooses or (top is not None and served.task == "multi-label")
        if top is not None and not ranks:
            raise BadUsage(
                f"--top ranks the classes of a row, or its labels, and {model} is a model of the task {served.task!r}, which "
                "has none to rank; leave out --top"
            )
        try:
            schema = client.schema(model, version=served.version) if served.columns else None
            requests = files.requests(inputs, served, sys.stdin.buffer, white=white, card=card, schema=schema)
        except files.InputError as error:
            raise BadUsage(str(error)) from error
        if ranks:
            ranked = answers.rank(client, served, requests)
            write_predictions(ranked.rows, ranked.labels, served, form, sys.stdout, top=top, decision=ranked.decision)
        else:
            answers.write(answers.ask(client, served, requests), served, form, sys.stdout)


@app.command(name="models", epilog=_examples("frostline models", "frostline models --server gpu-box:8001"))
def list_models(
    *,
    server: Server = "localhost:8001",
    form: Annotated[Literal["table", "json"], typer.Option("--format", help="The output format.")] = "table",
    tls: Tls = False,
    tls_ca: TlsCa = None,
    server_name: ServerName = "",
    certificate: Certificate = None,
    key: Key = None,
    token_file: TokenFile = None,
    insecure_token: InsecureToken = False,
    timeout_s: TimeoutS = 30.0,
) -> None:
    """List the model versions of a server, with their states.

    For a version that is ready, the list shows its input, or how many columns its raw rows have. For any other version, it
    shows why it is not ready.
    """
    from frostline.tables import write_models

    connection = Connection(
        server=server,
        tls=tls,
        tls_ca=tls_ca,
        server_name=server_name,
        certificate=certificate,
        key=key,
        token_file=token_file,
        insecure_token=insecure_token,
        timeout_s=timeout_s,
    )
    with connection.client() as client:
        write_models(client.models(), form, sys.stdout)


app.command(name="show", epilog=_examples("frostline show digits", "frostline show digits --open"))(show.command)

app.command(name="open", epilog=_examples("frostline open", "frostline open --address gpu-box:8000"))(browser.command)

app.command(
    epilog=_examples(
        "frostline promote digits 3",
        "frostline promote digits 4 --shadow",
        "frostline promote digits 4 --canary 5",
        "frostline promote digits 4 --canary 5 --take-back errors=0.01 --take-back latency=1.5",
        "frostline promote digits --when-agreeing 0.99 --rows 1000 --within 30m",
        "frostline promote digits 5 --expected 3",
        "frostline promote digits",
    )
)(rollouts.promote)
app.command(epilog=_examples("frostline rollback digits"))(rollouts.rollback)

app.command(
    epilog=_examples(
        "frostline token shop --file access.toml",
        "frostline token alice --roles observe,control --file access.toml > alice.token",
        "frostline token batch --requests-per-s 50 --burst 200",
        "frostline serve --models models --host 0.0.0.0 --access-file access.toml",
    )
)(tokens.token)


@app.command(epilog=_examples("frostline demo", "frostline demo --stay", "frostline demo --models /tmp/models"))
def demo(
    models: Models = Path("models"),
    device: Device = "auto",
    seed: Seed = None,
    *,
    stay: Annotated[bool, typer.Option("--stay", help="Go on serving until Ctrl-C, to try the page.")] = False,
) -> None:
    """Train, publish and serve a model on real data.

    The demo then sends held-out pictures to the server, and shows the answers, the server's metrics and the address of the
    page.
    """
    from rich.console import Console

    try:
        from frostline.cli import demo as shown
        from frostline_training.errors import DataError, SettingError, TrainingError
    except ModuleNotFoundError as error:
        _needs_training(error)
    try:
        shown.run(models=models, device=device, seed=seed, console=Console(), stay=stay)
    except (DataError, SettingError) as error:
        raise BadUsage(str(error)) from error
    except (shown.DemoFailed, TrainingError) as error:
        raise CannotDo(str(error)) from error


@app.command(
    epilog=_examples(
        "frostline tune digits --slo-ms 5",
        "frostline tune digits --models /srv/models --slo-ms 20 --seconds 15 --dry-run",
    )
)
def tune(
    model: Annotated[str, typer.Argument(help="The name of the model.")],
    *,
    models: Models = Path("models"),
    slo_ms: Annotated[
        float, typer.Option(min=0.01, help="The time limit in milliseconds, for 99 % of the answers.")
    ] = 10.0,
    seconds: Annotated[float, typer.Option(min=0.1, help="How long to load each candidate, in seconds.")] = 6.0,
    device: Device = "auto",
    picture: Annotated[Path | None, typer.Option(help="The file for the chart.  [default: MODEL-tune.png]")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the best settings, but do not write them.")] = False,
) -> None:
    """Find the fastest settings of a model within a time limit.

    The command tries batch sizes, numbers of instances and numbers of threads. For each candidate it starts a real
    server and sends requests without waiting for the answers (open-loop load). Run nothing else on the
    machine while the command runs.

    The command writes the best settings to the model's config.pbtxt. Everything else in that file stays.
    """
    from rich.console import Console

    try:
        from frostline.server_process import ServerRefused
        from frostline.tune import tuner
    except ModuleNotFoundError as error:
        if error.name != "hpack":
            raise
        raise CannotDo("tuning needs hpack, which is not installed: pip install 'frostline[tune]'") from error
    job = tuner.Job(models, model, slo_ms, seconds, device, not dry_run, picture or Path(f"{model}-tune.png"))
    try:
        tuner.run(job, Console())
    except (tuner.NoSuchModel, ServerRefused) as error:
        raise BadUsage(str(error)) from error
    except tuner.CannotTune as error:
        raise CannotDo(str(error)) from error


def _needs_training(error: ModuleNotFoundError) -> NoReturn:
    package = (error.name or "").partition(".")[0]
    if package.startswith("frostline"):
        raise error
    raise CannotDo(f"training needs {package}, which is not installed: pip install 'frostline[train]'") from error
