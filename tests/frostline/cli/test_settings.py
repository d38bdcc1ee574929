"""What is generated from the server's settings: the flags of `frostline serve`, their help, and the guide's table."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import Field
from pydantic.fields import FieldInfo

from frostline.cli import main as cli
from frostline.cli import settings
from frostline_server.config import RENAMED, ServerConfig


@pytest.fixture
def shown(capsys: pytest.CaptureFixture[str]) -> str:
    """What `frostline serve --help` shows."""
    assert cli.run(["serve", "--help"]) == 0
    return capsys.readouterr().out


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[ServerConfig]:
    """The settings of every server that was started."""
    configs: list[ServerConfig] = []

    def run(config: ServerConfig) -> int:
        configs.append(config)
        return 0

    monkeypatch.setattr("frostline_server.main.run", run)
    return configs


def said_of(flag: str, shown: str) -> str:
    """The words of the help after a flag, on one line."""
    words = " ".join(shown.partition(f"  {flag} ")[2].split())
    return words.partition(" --")[0]


@pytest.mark.parametrize(
    ("flag", "words"),
    [
        ("--port", "<int> gRPC port; 0 picks a free one. [0 to 65535; default: 8001]"),
        ("--max-queue-size", "[at least 1; default: 4096]"),
        ("--max-message-bytes", "[1024 to 2147483647; default: 67108864 (64 MiB)]"),
        ("--transport", "auto takes h2 wherever its library is installed. [default: auto]"),
        (
            "--models",
            "<path> Folder of models: <name>/<version>/model.onnx; or one model: <version>/model.onnx, or model.onnx. [required]",
        ),
    ],
)
def test_the_help_of_a_flag_says_its_values_and_its_default(shown: str, flag: str, words: str) -> None:
    assert said_of(flag, shown).endswith(words)


def test_the_help_calls_other_settings_by_their_flags(shown: str) -> None:
    assert "together with --tls-key." in " ".join(shown.split())
    assert "`" not in shown


def test_the_help_has_the_flags_in_groups_and_its_examples_at_the_end(shown: str) -> None:
    headings = [line.rstrip(":") for line in shown.splitlines() if line.endswith(":") and not line.startswith("  ")]
    assert headings == [*dict.fromkeys(each.group for each in settings.settings()), "Options"]
    assert shown.rindex("--config") > shown.rindex("--log-level")
    assert shown.rstrip().splitlines()[-1].startswith("    frostline serve ")


def test_an_old_flag_is_not_in_the_help(shown: str) -> None:
    assert [old for old in RENAMED if f"--{old.replace('_', '-')}" in shown] == []


@pytest.mark.parametrize(
    ("typed", "name", "value"),
    [
        (["--exit-on-fault"], "exit_on_fault", True),
        (["--tls-cert", "c.pem", "--tls-key", "k.pem"], "tls_key", Path("k.pem")),
        (["--poll-s", "2"], "poll_s", 2.0),
        (["--threads", "3"], "threads", 3),
        (["--shared-memory", "off"], "shared_memory", "off"),
        (["--model-control", "explicit", "--load-models", "a,b"], "load_models", "a,b"),
    ],
)
def test_a_flag_of_any_type_reaches_its_setting(
    started: list[ServerConfig], typed: list[str], name: str, value: object
) -> None:
    assert cli.run(["serve", "--models", "m", *typed]) == 0
    assert getattr(started[0], name) == value


def test_flags_are_not_remembered_from_one_command_line_to_the_next(started: list[ServerConfig]) -> None:
    assert cli.run(["serve", "--models", "m", "--port", "1"]) == 0
    assert cli.run(["serve", "--models", "m"]) == 0
    assert [config.port for config in started] == [1, ServerConfig.model_fields["port"].default]


def test_a_flag_that_is_not_given_leaves_the_setting_to_the_file(started: list[ServerConfig], tmp_path: Path) -> None:
    file = tmp_path / "server.toml"
    file.write_text("models = 'there'\nport = 7\nexit_on_fault = true\n", encoding="utf-8")
    assert cli.run(["serve", "--config", str(file)]) == 0
    assert (started[0].models, started[0].port, started[0].exit_on_fault) == (Path("there"), 7, True)


def test_the_table_has_every_setting_with_what_it_takes() -> None:
    lines = settings.table()[2:]
    assert [line.split("`")[1] for line in lines] == list(ServerConfig.model_fields)
    assert "| `host` | `127.0.0.1` | text | address to listen on, or `unix:/path/to.sock` |" in lines
    assert "| `slo_ms` | `0.0` | number, 0 to 3600000 | " in "\n".join(lines)
    assert "see [The latency limit: slo_ms](#the-latency-limit-slo_ms) |" in "\n".join(lines)


def test_the_table_goes_between_its_markers_and_nowhere_else() -> None:
    written = settings.with_table(f"before\n{settings.BEGIN}\nold\n{settings.END}\nafter\n")
    assert written.startswith(f"before\n{settings.BEGIN}\n\n| setting |")
    assert written.endswith(f" |\n\n{settings.END}\nafter\n")
    assert settings.with_table(written) == written


def test_a_document_without_the_markers_is_not_touched(tmp_path: Path) -> None:
    document = tmp_path / "guide.md"
    document.write_text("nothing", encoding="utf-8")
    with pytest.raises(ValueError, match="lacks the lines"):
        settings.main(document)
    assert document.read_text(encoding="utf-8") == "nothing"


@pytest.mark.parametrize("field", [Field(1), Field(1, description="a number")])
def test_a_setting_that_says_nothing_of_itself_is_a_mistake(field: Any) -> None:
    info = FieldInfo.from_annotated_attribute(int, field)
    with pytest.raises(TypeError, match="the setting speed lacks a description or a group"):
        settings._setting("speed", info)
