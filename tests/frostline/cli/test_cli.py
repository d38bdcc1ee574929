"""The command line, as its users meet it: what it prints, and its exit codes."""

import csv
import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import numpy as np
import pytest
import trustme
from PIL import Image

import frostline as package
from frostline.cli import main as cli
from frostline.client.errors import InvalidInput
from frostline_server.config import ServerConfig
from frostline_training.config import RECIPES, Mlp, Recipe
from frostline_training.errors import TrainingError
from tests.support.fake_server import LABELS, LIMIT, MODEL, FakeServer, fake_server

COMMANDS = ("train", "show", "open", "serve", "predict", "models", "promote", "rollback", "token", "demo", "tune")
ROWS = [[0.0, 2.0, 1.0], [5.0, -1.0, 5.0]]


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with fake_server() as fake:
        yield fake


@pytest.fixture
def rows_npy(tmp_path: Path) -> str:
    np.save(tmp_path / "rows.npy", np.array(ROWS))
    return str(tmp_path / "rows.npy")


def frostline(*arguments: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "frostline", *arguments], input=stdin, capture_output=True, timeout=60, check=False
    )


def refusal(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    """The exit code and the one sentence of a command line that is refused."""
    code = cli.run(arguments)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("frostline: ")
    assert captured.err.count("\n") == 1
    return code, captured.err.removeprefix("frostline: ").rstrip("\n")


def test_a_table_of_predictions_has_ids_labels_and_probabilities(
    server: FakeServer, rows_npy: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert cli.run(["predict", MODEL, rows_npy, "--server", server.address]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines() if line.strip("─ ")]
    assert lines == [
        ["id", "prediction", "probability", "ant", "bee", "cat"],
        [f"{rows_npy}:0", "bee", "0.6652", "0.0900", "0.6652", "0.2447"],
        [f"{rows_npy}:1", "ant", "0.4994", "0.4994", "0.0012", "0.4994"],
    ]
    assert cli.run(["predict", MODEL, rows_npy, "--server", server.address, "--top", "2"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines() if line.strip("─ ")]
    assert lines[:3] == [
        ["id", "rank", "class", "probability"],
        [f"{rows_npy}:0", "1", "bee", "0.6652"],
        [f"{rows_npy}:0", "2", "cat", "0.2447"],
    ]


def test_csv_predictions_have_every_probability(
    server: FakeServer, rows_npy: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(["predict", MODEL, rows_npy, "--server", server.address, "--format", "csv"]) == 0
    answers = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert list(answers[0]) == ["id", "prediction", "probability", "ant", "bee", "cat"]
    assert [(a["id"], a["prediction"]) for a in answers] == [(f"{rows_npy}:0", "bee"), (f"{rows_npy}:1", "ant")]
    # exp(0), exp(2) and exp(1), over their sum.
    assert [float(answers[0][label]) for label in LABELS] == pytest.approx([0.090031, 0.665241, 0.244728], abs=1e-6)
    assert answers[0]["probability"] == answers[0]["bee"]
    assert np.float32(answers[0]["bee"]) == np.float32(0.66524094)


def test_csv_predictions_with_top_are_ranked(
    server: FakeServer, rows_npy: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(["predict", MODEL, rows_npy, "--server", server.address, "--format", "csv", "--top", "2"]) == 0
    answers = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [(a["id"], a["rank"], a["class"]) for a in answers] == [
        (f"{rows_npy}:0", "1", "bee"),
        (f"{rows_npy}:0", "2", "cat"),
        (f"{rows_npy}:1", "1", "ant"),
        (f"{rows_npy}:1", "2", "cat"),
    ]
    assert float(answers[0]["probability"]) == pytest.approx(0.66524, abs=1e-5)


def test_json_predictions_name_the_version_and_the_file_of_each_row(
    server: FakeServer, rows_npy: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(["predict", MODEL, rows_npy, rows_npy, "--server", server.address, "--format", "json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert (answer["model"], answer["version"]) == (MODEL, "2")
    assert [row["input"] for row in answer["rows"]] == [rows_npy] * 4
    assert [row["top"][0]["class"] for row in answer["rows"]] == ["bee", "ant"] * 2
    assert [row["prediction"] for row in answer["rows"]] == ["bee", "ant"] * 2


def test_several_files_make_a_table_that_names_them(
    server: FakeServer, rows_npy: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "one.csv").write_text("0,0,9\n")
    code = cli.run(
        ["predict", MODEL, rows_npy, str(tmp_path / "one.csv"), "--server", server.address, "--format", "csv"]
    )
    answers = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert code == 0
    # The first file holds float64 and the second what the model takes; both are sent as float32.
    assert [(Path(a["id"]).name, a["prediction"]) for a in answers] == [
        ("rows.npy:0", "bee"),
        ("rows.npy:1", "ant"),
        ("one.csv:0", "cat"),
    ]


def test_more_rows_than_the_server_takes_at_once_go_in_several_requests(
    server: FakeServer, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    np.save(tmp_path / "many.npy", np.eye(3, dtype=np.float32)[np.arange(2 * LIMIT + 1) % 3])
    assert cli.run(["predict", MODEL, str(tmp_path / "many.npy"), "--server", server.address, "--format", "csv"]) == 0
    answers = [line.split(",")[:2] for line in capsys.readouterr().out.splitlines()[1:]]
    assert answers == [[f"{tmp_path}/many.npy:{i}", LABELS[i % 3]] for i in range(2 * LIMIT + 1)]
    assert [request.inputs[0].shape[0] for request in server.requests] == [LIMIT, LIMIT, 1]


def test_a_picture_is_one_row(server: FakeServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    server.row_shape = (1, 2, 2)
    Image.fromarray(np.array([[1, 9], [2, 0]], np.uint8)).save(tmp_path / "picture.png")
    arguments = ["predict", MODEL, str(tmp_path / "picture.png"), "--server", server.address, "--format", "csv"]
    assert cli.run(arguments) == 0
    assert "picture.png:0,bee," in capsys.readouterr().out
    server.row_shape = (1, 8, 8)
    code, sentence = refusal(capsys, *arguments)
    assert code == 2
    assert sentence.endswith(
        "is 2 x 2 pixels, but the model's input is input FP32 [any, 1, 8, 8]; pictures are never resized"
    )


def test_a_golden_sample_is_sent_as_it_is(
    server: FakeServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.input_names = ("features",)
    rows = np.array(ROWS, np.float32)
    golden: dict[str, Any] = {"input": rows, "logits": rows, "output.logits": rows, "rtol": 0.001, "atol": 0.001}
    np.savez(tmp_path / "golden.npz", **golden)
    arguments = ["predict", MODEL, str(tmp_path / "golden.npz"), "--server", server.address, "--format", "csv"]
    assert cli.run(arguments) == 0
    answers = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [(Path(a["id"]).name, a["prediction"]) for a in answers] == [
        ("golden.npz:0", "bee"),
        ("golden.npz:1", "ant"),
    ]


def test_rows_can_be_piped_in_and_answers_out(server: FakeServer) -> None:
    piped = frostline("predict", MODEL, "-", "--server", server.address, "--format", "csv", stdin=b"a,b,c\n0,2,1\n")
    assert piped.stderr == b""
    assert piped.stdout.startswith(b"id,prediction,probability,ant,bee,cat\n-:0,bee,0.66")
    assert piped.returncode == 0


def test_a_given_version_is_asked_for(server: FakeServer, rows_npy: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["predict", MODEL, rows_npy, "--server", server.address, "--model-version", "1"]) == 0
    assert [request.version for request in server.requests] == ["1"]
    assert "bee" in capsys.readouterr().out


def test_models_shows_states_reasons_and_inputs(server: FakeServer, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["models", "--server", server.address]) == 0
    table = capsys.readouterr().out
    assert "broken" in table
    assert "golden check: row 3 is off by 0.5" in table
    assert "input FP32 [any, 3]" in table
    assert cli.run(["models", "--server", server.address, "--format", "json"]) == 0
    broken, echo = json.loads(capsys.readouterr().out)
    assert (broken["state"], echo["state"]) == ("UNAVAILABLE", "READY")
    assert echo["inputs"] == ["input FP32 [any, 3]"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["frobnicate"], "no such command 'frobnicate'"),
        (["predict"], "missing argument 'model'"),
        (["predict", "m", "x.npy", "--top", "0"], "'--top'"),
        (["predict", "m", "x.npy", "--format", "xml"], "'xml' is not one of 'table', 'json', 'csv'"),
        (["predict", "m", "x.npy", "--server", "http://box:8001"], "'http://box:8001' is a URL"),
        (["predict", "m", "x.npy", "--tls-ca", "nowhere.pem"], "cannot read nowhere.pem: No such file"),
        (["models", "--token-file", "nowhere.txt"], "cannot read nowhere.txt: No such file"),
        (["models", "--certificate", "c.pem", "--tls"], "certificate and key go together"),
        (["models", "--certificate", "c.pem", "--key", "k.pem"], "a client certificate needs TLS"),
        (["train", "foo"], "no such recipe 'foo'; there are: breast-cancer, digits"),
        (["train"], "which recipe?; there are: breast-cancer, digits"),
        (
            ["train", "iris", "--set", "epoch=3"],
            "iris has no setting 'epoch'; there are: activation, baselines, batch_size",
        ),
        (["train", "iris", "--set", "epochs=many"], "epochs: Input should be a valid integer"),
        (["train", "iris", "--set", "epochs"], "write it as name=value"),
        (["train", "iris", "--precision", "fp4"], "precision 'fp4' is not one of fp16, int8"),
        (["train", "iris", "--seed", "5", "--set", "seed=6"], "--seed 5 and --set seed=6 set the same: leave out one"),
        (["train", "iris", "--set", "epochs=1", "--set", "epochs=2"], "--set epochs=1 and --set epochs=2 set the same"),
        (["train", "iris", "--bound", "3"], "--bound is for --precision: name the variants that it bounds"),
        (["train", "iris", "--device", "gpu"], "--device must be auto, cpu, cuda or cuda:N, got 'gpu'"),
        (["train", "iris", "--device", "cuda:99"], "device 'cuda:99': "),
        (["train", "iris", "--models", __file__], "test_cli.py is a file, and a folder is expected"),
        (["train", "iris", "--runs", __file__], "test_cli.py is a file, and a folder is expected"),
        (["demo", "--device", "cuda:x"], "--device must be auto, cpu, cuda or cuda:N, got 'cuda:x'"),
        (["tune", "m", "--device", "gpu"], "--device must be auto, cpu, cuda or cuda:N, got 'gpu'"),
        (["models", "--server-name", "x"], "server_name is the name in a certificate, so it needs TLS"),
        (["train", "nowhere.py"], "cannot read nowhere.py: No such file"),
        (["serve"], "models"),
        (["serve", "--models", "models", "--port", "99999"], "port"),
        (["serve", "--models", "models", "--transport", "pigeon"], "transport"),
        (["serve", "--config", "nowhere.toml"], "nowhere.toml"),
        (["serve", "--models", "there-is-no-such-folder"], "there-is-no-such-folder"),
    ],
)
def test_bad_usage_is_refused_with_one_sentence_and_code_2(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, arguments: Sequence[str], sentence: str
) -> None:
    for name in [name for name in os.environ if name.startswith("FROSTLINE_")]:
        monkeypatch.delenv(name)
    code, said = refusal(capsys, *arguments)
    assert sentence in said
    assert code == 2


def test_the_token_comes_from_a_file_or_else_from_the_environment(
    server: FakeServer, rows_npy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "token").write_text("from-a-file\n", encoding="utf-8")
    predict = ["predict", MODEL, rows_npy, "--server", server.address]
    assert cli.run(predict) == 0
    monkeypatch.setenv("FROSTLINE_TOKEN", "from-the-environment")
    assert cli.run(predict) == 0
    assert cli.run([*predict, "--token-file", str(tmp_path / "token")]) == 0
    monkeypatch.setenv("FROSTLINE_TOKEN_FILE", str(tmp_path / "token"))
    assert cli.run(predict) == 0
    assert [headers.get("authorization") for headers in server.headers] == [
        None,
        "Bearer from-the-environment",
        "Bearer from-a-file",
        "Bearer from-a-file",
    ]


@pytest.mark.parametrize("command", [["models"], ["predict", "m", "x.npy"]])
def test_a_token_is_not_sent_in_plain_text_over_a_network(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, command: list[str]
) -> None:
    monkeypatch.setenv("FROSTLINE_TOKEN", "from-the-environment")
    code, said = refusal(capsys, *command, "--server", "box:8001")
    assert code == 2
    assert said.startswith("the token would go to box:8001 in plain text")
    assert said.endswith("(on the command line --insecure-token)")


def test_certificates_and_a_token_reach_a_server_over_tls(
    rows_npy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority = trustme.CA()
    theirs, ours = authority.issue_cert("pool.example"), authority.issue_cert("reader@example.org")
    authority.cert_pem.write_to_path(str(tmp_path / "roots.pem"))
    ours.cert_chain_pems[0].write_to_path(str(tmp_path / "cert.pem"))
    ours.private_key_pem.write_to_path(str(tmp_path / "key.pem"))
    credentials = grpc.ssl_server_credentials(
        [(theirs.private_key_pem.bytes(), theirs.cert_chain_pems[0].bytes())],
        authority.cert_pem.bytes(),
        require_client_auth=True,
    )
    monkeypatch.setenv("FROSTLINE_TOKEN", "secret")
    monkeypatch.setenv("FROSTLINE_TLS_CA", str(tmp_path / "roots.pem"))
    flags = ["--certificate", str(tmp_path / "cert.pem"), "--key", str(tmp_path / "key.pem")]
    with fake_server(credentials=credentials) as server:
        where = ["--server", server.address, "--server-name", "pool.example"]
        assert cli.run(["predict", MODEL, rows_npy, *where, *flags]) == 0
        assert cli.run(["models", *where, *flags]) == 0
    assert [headers["authorization"] for headers in server.headers] == ["Bearer secret"]


def test_a_file_that_is_not_there_is_bad_usage(server: FakeServer, capsys: pytest.CaptureFixture[str]) -> None:
    code, said = refusal(capsys, "predict", MODEL, "nowhere.npy", "--server", server.address)
    assert (code, said) == (2, "cannot read nowhere.npy: No such file or directory")


def test_no_server_is_one_sentence_on_stderr_and_code_1() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
        refused = frostline("models", "--server", address)
    assert refused.returncode == 1
    assert refused.stdout == b""
    assert refused.stderr.decode() == (
        f"frostline: no Frostline server answers at {address}; "
        "start one with `frostline serve --models models` (Connection refused)\n"
    )


def test_an_unknown_model_is_one_sentence_and_code_1(
    server: FakeServer, rows_npy: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, said = refusal(capsys, "predict", "ecco", rows_npy, "--server", server.address)
    assert code == 1
    assert said.endswith("the server has: broken version 1, echo version 2")


def test_a_refused_input_is_one_sentence_and_code_1(
    server: FakeServer, rows_npy: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise InvalidInput("two\nlines.")

    monkeypatch.setattr("frostline.client.connection.Client.model", refuse)
    assert refusal(capsys, "predict", MODEL, rows_npy, "--server", server.address) == (1, "two lines")


@pytest.mark.usefixtures("sigint")
def test_ctrl_c_exits_with_130_and_without_a_traceback(server: FakeServer, rows_npy: str) -> None:
    server.silent = True
    with subprocess.Popen(
        [sys.executable, "-m", "frostline", "predict", MODEL, rows_npy, "--server", server.address],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert server.asked.wait(30)
        process.send_signal(signal.SIGINT)
        _, complaints = process.communicate(timeout=30)
    assert process.returncode == 130
    assert complaints == b""
    assert server.gone.wait(10)


def test_the_version_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["--version"]) == 0
    assert capsys.readouterr().out.startswith("frostline 0.")


def test_the_changelog_begins_with_the_version_of_the_project() -> None:
    root = Path(__file__).parents[3]
    version = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    newest = re.findall(r"^## \[(\d.*?)\]", (root / "CHANGELOG.md").read_text(encoding="utf-8"), flags=re.MULTILINE)[0]
    assert newest == version


def test_nothing_typed_shows_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run([]) == 0
    shown = capsys.readouterr().out
    assert all(f"\n  {command} " in shown for command in COMMANDS)


def test_the_help_of_predict_shows_golden_samples_and_says_what_the_formats_hold(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert cli.run(["predict", "--help"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    for words in (
        "frostline predict digits models/digits/1/golden.npz",
        "frostline predict iris flowers.csv --format csv > probabilities.csv",
        "Each row has the id FILE:NUMBER",
        "In json, a number that is NaN or infinite is null",
        "class_0, class_1",
    ):
        assert words in shown


@pytest.mark.parametrize("command", COMMANDS)
def test_every_help_has_examples(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run([command, "--help"]) == 0
    assert f"Examples:\n    frostline {command}" in capsys.readouterr().out


def test_recipes_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["train", "--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(RECIPES)
    assert lines[3].split() == ["digits-lstm", "lstm", "on", "digits-rows"]


def test_every_setting_of_the_server_has_a_flag(capsys: pytest.CaptureFixture[str]) -> None:
    cli.run(["serve", "--help"])
    shown = capsys.readouterr().out
    assert [name for name in ServerConfig.model_fields if f"--{name.replace('_', '-')} " not in shown] == []


def test_flags_reach_the_server_and_its_exit_code_comes_back(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    started: list[ServerConfig] = []

    def run(config: ServerConfig) -> int:
        started.append(config)
        return 1

    monkeypatch.setattr("frostline_server.main.run", run)
    assert cli.run(["serve", "--models", "m", "--port", "0", "--grace-s", "1.5", "--log-format", "json"]) == 1
    assert (started[0].port, started[0].grace_s, started[0].log_format) == (0, 1.5, "json")
    assert started[0].max_batch_size == ServerConfig(models=Path("m")).max_batch_size
    assert capsys.readouterr().err == ""


def test_the_old_flag_of_the_device_probe_still_reaches_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[ServerConfig] = []

    def run(config: ServerConfig) -> int:
        started.append(config)
        return 0

    monkeypatch.setattr("frostline_server.main.run", run)
    assert cli.run(["serve", "--models", "m", "--canary-s", "2.5"]) == 0
    assert (started[0].probe_s, len(started[0].deprecated)) == (2.5, 1)


@pytest.mark.parametrize(
    ("code", "unwanted"),
    [
        (
            "import frostline",
            ("torch", "onnxruntime", "frostline_server", "frostline_training", "grpc", "numpy", "typer"),
        ),
        ("from frostline.pb import inference_pb2", ("grpc", "numpy", "frostline_server")),
        (
            "import frostline; frostline.connect",
            ("torch", "onnxruntime", "frostline_server", "frostline_training", "typer", "rich"),
        ),
        (
            "HELP('predict')",
            ("torch", "onnxruntime", "frostline_server", "frostline_training", "grpc", "numpy", "rich"),
        ),
        # The settings themselves are read: the flags are generated from them.
        (
            "HELP('serve')",
            ("torch", "onnxruntime", "frostline_server.app", "frostline_training", "grpc", "numpy", "rich"),
        ),
        ("import frostline.cli.main, frostline_server.app", ("torch", "frostline_training", "sklearn", "matplotlib")),
        (
            "HELP('promote')",
            ("torch", "onnxruntime", "frostline_server", "frostline_training", "grpc", "numpy", "rich"),
        ),
        ("HELP('train')", ("torch", "onnxruntime", "frostline_server", "frostline_training")),
    ],
)
def test_nothing_is_loaded_that_is_not_needed(code: str, unwanted: Sequence[str]) -> None:
    prelude = (
        "import sys\ndef HELP(command):\n    from frostline.cli import main as cli\n    cli.run([command, '--help'])\n"
    )
    script = f"{prelude}{code}\nprint('LOADED', *[name for name in {unwanted!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.splitlines()[-1] == "LOADED"


def test_train_runs_the_recipe_with_the_seed_given(monkeypatch: pytest.MonkeyPatch) -> None:
    trained: list[tuple[Recipe, Path, str]] = []

    def run(recipe: Recipe, *, models: Path, device: str, **_: object) -> None:
        trained.append((recipe, models, device))

    monkeypatch.setattr("frostline_training.pipeline.run", run)
    assert cli.run(["train", "iris", "--models", "here", "--device", "cpu", "--seed", "7"]) == 0
    assert cli.run(["train", "iris"]) == 0
    assert trained == [
        (RECIPES["iris"].model_copy(update={"seed": 7}), Path("here"), "cpu"),
        (RECIPES["iris"], Path("models"), "auto"),
    ]


def test_train_passes_on_what_was_typed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[dict[str, object]] = []

    def run(recipe: Recipe, **options: object) -> SimpleNamespace:
        asked.append({"recipe": recipe, **options})
        return SimpleNamespace(live=True)

    monkeypatch.setattr("frostline_training.pipeline.run", run)
    own = tmp_path / "own.py"
    own.write_text(
        "from frostline_training.config import Mlp, Recipe\nmine = Recipe(name='mine', data='iris', network=Mlp(hidden=(4,)))\n"
    )
    typed = [
        "--set",
        "epochs=5",
        "--set",
        "hidden=8,9",
        "--resume",
        "--precision",
        "int8",
        "--runs",
        "there",
        "--tensorboard",
        "--if-better",
        "accuracy:0.01",
    ]
    assert cli.run(["train", str(own), *typed]) == 0
    recipe = asked[0].pop("recipe")
    assert isinstance(recipe, Recipe)
    assert isinstance(recipe.network, Mlp)
    assert (recipe.name, recipe.hyperparameters.epochs, recipe.network.hidden) == ("mine", 5, (8, 9))
    del asked[0]["console"]
    assert asked == [
        {
            "models": Path("models"),
            "device": "auto",
            "runs": Path("there"),
            "resume": True,
            "precision": ("int8",),
            "bound": 0.5,
            "tensorboard": True,
            "stage": False,
            "if_better": "accuracy:0.01",
        }
    ]


def test_a_training_that_fails_is_one_sentence_and_code_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(*_: object, **__: object) -> None:
        raise TrainingError("the loss is not finite: lower the learning rate.")

    monkeypatch.setattr("frostline_training.pipeline.run", run)
    assert refusal(capsys, "train", "iris") == (1, "the loss is not finite: lower the learning rate")


@pytest.mark.parametrize("command", [["train", "digits"], ["demo"]])
def test_training_without_torch_says_what_to_install(command: Sequence[str]) -> None:
    script = f"import sys\nsys.modules['torch'] = None\nfrom frostline.cli import main as cli\nsys.exit(cli.run({command!r}))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert done.stderr == ("frostline: training needs torch, which is not installed: pip install 'frostline[train]'\n")
    assert done.returncode == 1


def test_every_public_name_is_there() -> None:
    assert all(getattr(package, name) is not None for name in package.__all__)
    assert dir(package) == sorted(package.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = package.nothing  # type: ignore[attr-defined]  # that is the mistake


def test_a_name_keeps_its_capital_and_its_spaces_in_a_message(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(["promote", "Flowers  of May", "--models", str(tmp_path)]) == 2
    assert capsys.readouterr().err == f"frostline: {tmp_path} has no model 'Flowers  of May'; it has: none\n"
    assert cli.run(["promote"]) == 2
    assert capsys.readouterr().err == "frostline: missing argument 'model'\n"


def test_a_failure_cannot_command_the_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["promote", "a\x1b[2J", "--models", str(tmp_path)]) == 2
    assert r"has no model 'a\x1b[2J'" in capsys.readouterr().err
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "\x1b[2J").mkdir()
    assert cli.run(["promote", "m", "--models", str(tmp_path / "there")]) == 2
    assert capsys.readouterr().err.endswith(r"it has: \x1b[2J" + "\n")


@pytest.mark.parametrize("arguments", ["models", "predict echo {rows}", "predict echo {rows} --format csv"])
def test_output_that_cannot_be_written_is_a_sentence(server: FakeServer, rows_npy: str, arguments: str) -> None:
    command = f"'{sys.executable}' -m frostline {arguments.format(rows=rows_npy)} --server {server.address}"
    for output, says in (
        (">/dev/full", "cannot write to standard output: No space left on device"),
        (">&-", "standard output is closed, so nothing can be shown; open it, or send it to /dev/null"),
    ):
        done = subprocess.run(["/bin/sh", "-c", f"{command} {output}"], capture_output=True, timeout=60, check=False)
        assert (done.returncode, done.stderr.decode()) == (1, f"frostline: {says}\n")


@pytest.mark.parametrize("form", ["table", "csv", "json"])
def test_a_character_that_the_terminal_lacks_is_escaped(
    server: FakeServer, rows_npy: str, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    monkeypatch.setenv("COLUMNS", "200")
    server.labels = ("\u00e4pfel", "bee", "cat")
    done = frostline("predict", MODEL, rows_npy, "--server", server.address, "--format", form)
    assert (done.returncode, done.stderr) == (0, b"")
    written = done.stdout.decode("ascii")
    if form == "json":
        assert json.loads(written)["rows"][1]["prediction"] == "\u00e4pfel"
    else:
        assert "\\xe4pfel" in written
