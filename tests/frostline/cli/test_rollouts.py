"""Promoting and rolling back from the command line, and how a rollout is shown."""

import io
import json
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest

import frostline
from frostline.cli import agreement
from frostline.cli import main as cli
from frostline_server.regular_files import FileReader
from frostline_server.repository import rollout as rollouts
from frostline_server.repository.rollout import Rollout
from frostline_server.repository.rollout_steps import give_up, take_back
from frostline_server.repository.take_back import TakeBack
from tests.support.fake_server import MODEL, fake_server

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """A folder whose model `digits` has the versions 1, 2, 3 and 10, and what is none."""
    for name in ("1", "2", "3", "10", ".staging-11", "012", "notes"):
        (tmp_path / "digits" / name).mkdir(parents=True)
    return tmp_path


def done(models: Path, capsys: Capture, *arguments: str) -> tuple[str, Rollout | None]:
    """What a command says, and the rollout after it."""
    command, model, *rest = arguments
    assert cli.run([command, model, *rest, "--models", str(models)]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    return captured.out.rstrip("\n"), rollouts.read(models / model, FileReader(models))


def refused(models: Path, capsys: Capture, *arguments: str) -> str:
    """The one sentence of a refusal, which changes nothing."""
    before = sorted(path.read_bytes() for path in models.rglob("*") if path.is_file())
    assert cli.run([*arguments, "--models", str(models)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert sorted(path.read_bytes() for path in models.rglob("*") if path.is_file()) == before
    return captured.err.removeprefix("frostline: ").rstrip("\n")


def test_a_version_is_tried_promoted_and_taken_back(models: Path, capsys: Capture) -> None:
    said, rollout = done(models, capsys, "promote", "digits", "3")
    assert (said, rollout) == ("digits: version 3 is stable", Rollout({"stable": 3}, previous=(10,)))
    said, _ = done(models, capsys, "promote", "digits", "--shadow")
    assert said == "digits: version 3 is stable, version 10 gets a copy of the traffic"
    said, rollout = done(models, capsys, "promote", "digits", "--canary", "2.5")
    assert rollout == Rollout({"stable": 3, "canary": 10}, {"canary": 2.5}, 10, (10,))
    assert said == (
        "digits: version 3 is stable, version 10 is canary with 2.5 % of the traffic, version 10 gets a copy of the traffic"
    )
    said, rollout = done(models, capsys, "promote", "digits")
    assert (said, rollout) == ("digits: version 10 is stable", Rollout({"stable": 10}, previous=(10, 3)))
    said, rollout = done(models, capsys, "rollback", "digits")
    assert (said, rollout) == ("digits: version 3 is stable", Rollout({"stable": 3}, previous=(10,)))
    said, rollout = done(models, capsys, "rollback", "digits")
    assert (said, rollout) == ("digits: version 10 is stable", Rollout({"stable": 10}))
    assert "nothing to roll back to" in refused(models, capsys, "rollback", "digits")


def test_a_promotion_without_a_version_takes_the_canary_then_the_shadow_then_the_newest(
    models: Path, capsys: Capture
) -> None:
    done(models, capsys, "promote", "digits", "1")
    done(models, capsys, "promote", "digits", "2", "--shadow")
    done(models, capsys, "promote", "digits", "3", "--canary", "5")
    for version in (3, 10):
        _, rollout = done(models, capsys, "promote", "digits")
        assert rollout is not None
        assert rollout.labels == {"stable": version}
    done(models, capsys, "promote", "digits", "2", "--shadow")
    _, rollout = done(models, capsys, "promote", "digits")
    assert rollout == Rollout({"stable": 2}, previous=(10, 1, 3, 10))


def test_a_canary_and_a_shadow_can_be_asked_for_at_once_and_taken_back_at_once(models: Path, capsys: Capture) -> None:
    done(models, capsys, "promote", "digits", "2")
    _, rollout = done(models, capsys, "promote", "digits", "3", "--canary", "5", "--shadow")
    assert rollout == Rollout({"stable": 2, "canary": 3}, {"canary": 5}, 3, (10,))
    _, rollout = done(models, capsys, "rollback", "digits")
    assert rollout == Rollout({"stable": 2}, previous=(10,))


def test_without_a_rollout_the_version_before_the_newest_returns(models: Path, capsys: Capture) -> None:
    said, rollout = done(models, capsys, "rollback", "digits")
    assert (said, rollout) == ("digits: version 3 is stable", Rollout({"stable": 3}))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("promote", "digits", "7"), "digits: there is no version 7; there are: 1, 2, 3, 10"),
        (("promote", "digits", "0"), "greater than or equal to 1"),
        (("promote", "digits", "canary"), "valid integer"),
        (("promote", "letters"), "has no model 'letters'; it has: digits"),
        (("promote", "../digits"), "has no model '../digits'"),
        (("promote", ""), "has no model ''"),
        (("rollback", "letters"), "has no model 'letters'; it has: digits"),
        (
            ("promote", "digits", "3", "--take-back", "errors=0.1", "--take-back", "errors=0.2"),
            "--take-back errors=0.2: errors has the limit 0.1 already; leave out one of them",
        ),
        (("promote", "digits", "3", "--shadow"), "no version is stable yet"),
        (("promote", "digits", "3", "--canary", "5"), "no version is stable yet"),
    ],
)
def test_what_cannot_be_is_refused_in_one_sentence(
    models: Path, capsys: Capture, arguments: tuple[str, ...], words: str
) -> None:
    assert words in refused(models, capsys, *arguments)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("10", "--canary", "5"), "version 10 is the stable version; only another version can be tried beside it"),
        (("--shadow",), "version 10 is the stable version"),
        (("3", "--canary", "0"), "expected a percentage above 0 and up to 100"),
        (("3", "--canary", "101"), "expected a percentage above 0 and up to 100"),
        (("3", "--canary", "nan"), "expected a percentage above 0 and up to 100"),
    ],
)
def test_a_trial_that_cannot_be_is_refused(
    models: Path, capsys: Capture, arguments: tuple[str, ...], words: str
) -> None:
    done(models, capsys, "promote", "digits", "10")
    assert words in refused(models, capsys, "promote", "digits", *arguments)


def test_a_damaged_rollout_is_not_written_over(models: Path, capsys: Capture) -> None:
    (models / "digits" / rollouts.FILE).write_text('{"labels": {"stable": "3"}}')
    for command in ("promote", "rollback"):
        said = refused(models, capsys, command, "digits")
        assert said == (
            "digits: rollout.json cannot be used: the label 'stable' must be the number of a version, got '3'"
        )


def test_a_model_without_versions_has_nothing_to_promote(models: Path, capsys: Capture) -> None:
    (models / "empty").mkdir()
    assert refused(models, capsys, "promote", "empty").endswith("has no version")


# What a server says


TRYING = {
    "frostline.version": "2",
    "frostline.version_labels": "canary eu",
    "frostline.share": "0.05",
    "frostline.shadow_of": "1",
    "frostline.rollout_problem": "version 1 is stable and not ready: version 2 answers in its place",
}


def test_models_shows_each_versions_part_in_the_traffic_and_what_is_not_as_the_rollout_says(capsys: Capture) -> None:
    with fake_server() as server:
        server.parameters = TRYING
        assert cli.run(["models", "--server", server.address]) == 0
        shown = capsys.readouterr().out
        assert cli.run(["models", "--server", server.address, "--format", "json"]) == 0
        broken, echo = json.loads(capsys.readouterr().out)
    assert "traffic" in shown.splitlines()[0]
    assert "5 %, canary, eu" in shown
    assert "shadow of 1" in shown
    assert shown.splitlines()[-1] == f"{MODEL}: {TRYING['frostline.rollout_problem']}"
    assert (echo["version_labels"], echo["share"], echo["shadow_of"]) == (["canary", "eu"], 0.05, "1")
    assert echo["rollout_problem"] == TRYING["frostline.rollout_problem"]
    assert (broken["version_labels"], broken["share"], broken["shadow_of"]) == ([], 0.0, "")


def test_without_a_rollout_models_shows_no_column_of_it(capsys: Capture) -> None:
    with fake_server() as server:
        server.parameters = {"frostline.version": "2", "frostline.share": "1"}
        assert cli.run(["models", "--server", server.address]) == 0
    assert "traffic" not in capsys.readouterr().out


@pytest.mark.parametrize("asked", ["", "latest", "canary"])
def test_a_client_learns_which_version_answers_a_label_and_asks_that_one_on(asked: str) -> None:
    with fake_server() as server, frostline.connect(server.address) as client:
        server.parameters = TRYING
        model = client.model(MODEL, version=asked)
        assert (model.version, model.version_labels, model.share) == ("2", ("canary", "eu"), 0.05)
        assert [request.version for request in server.asked_metadata] == ["2"]


def test_a_label_reaches_the_server_as_it_is_typed() -> None:
    with fake_server() as server, frostline.connect(server.address) as client:
        client.predict(MODEL, [[1.0, 2.0, 3.0]], version="canary")
        assert [request.version for request in server.requests] == ["canary"]


# A canary that the server takes back


def test_a_canary_is_given_a_rule_and_what_was_taken_back_is_shown(models: Path, capsys: Capture) -> None:
    done(models, capsys, "promote", "digits", "3")
    limits = ("--take-back", "errors=0.01", "--take-back", "latency=1.5", "--take-back", "min_samples=200")
    said, rollout = done(models, capsys, "promote", "digits", "10", "--canary", "5", *limits)
    assert rollout == Rollout(
        {"stable": 3, "canary": 10},
        {"canary": 5},
        previous=(10,),
        take_back=TakeBack(errors=0.01, latency=1.5, min_samples=200),
    )
    assert said.endswith(
        "the canary is taken back if over 1 % more of its requests fail or they take over 1.5 times as long"
    )
    assert rollout is not None
    (models / "digits/10/card.json").write_text('{"name": "digits", "version": 10}')
    assert cli.run(["show", "digits", "--models", str(models)]) == 0
    assert "canary with 5 % of the traffic" in capsys.readouterr().out
    rollouts.write(models / "digits", take_back(rollout, "it fails", "2026-01-02T03:04:05+00:00"))
    assert cli.run(["show", "digits", "--models", str(models)]) == 0
    shown = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "version 10 was taken back at 2026-01-02T03:04:05+00:00: it fails" in shown
    assert "version 10 was taken back" in refused(models, capsys, "promote", "digits")


def test_a_promotion_that_was_given_up_is_shown(models: Path, capsys: Capture) -> None:
    done(models, capsys, "promote", "digits", "3")
    _, rollout = done(models, capsys, "promote", "digits", "10", "--shadow")
    assert rollout is not None
    rollouts.write(models / "digits", give_up(rollout, "it differs", "2026-01-02T03:04:05+00:00"))
    (models / "digits/10/card.json").write_text('{"name": "digits", "version": 10}')
    assert cli.run(["show", "digits", "--models", str(models)]) == 0
    shown = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "the promotion of version 10 was given up at 2026-01-02T03:04:05+00:00: it differs" in shown


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        (("errors",), "--take-back errors: expected NAME=LIMIT, such as errors=0.01"),
        (("errors=much",), "expected NAME=LIMIT"),
        (("speed=2",), "--take-back: take_back has the unknown key 'speed'"),
        (("min_samples=10",), "take_back says nothing"),
        (("disagreement=0.1",), "digits: take_back looks at disagreement, and only a shadow is compared"),
    ],
)
def test_a_rule_that_makes_no_sense_is_refused(
    models: Path, capsys: Capture, limits: tuple[str, ...], words: str
) -> None:
    done(models, capsys, "promote", "digits", "3")
    options = [each for limit in limits for each in ("--take-back", limit)]
    assert words in refused(models, capsys, "promote", "digits", "10", "--canary", "5", *options)


# The comparison that a promotion waits for


@pytest.mark.parametrize(
    ("rows", "different", "verdict"),
    [
        (999, 0, None),
        (1000, 0, True),
        (1000, 10, True),
        (1000, 11, False),
        (12, 11, False),
        (12, 10, None),
        (2000, 20, True),
    ],
)
def test_a_shadow_is_promoted_or_given_up_once_that_is_sure(rows: int, different: int, verdict: bool | None) -> None:
    assert agreement.decide(agreement.Seen(rows, different), agreement.Wanted(0.99, 1000, 1.0)) is verdict


def test_rows_on_which_the_shadow_failed_do_not_agree() -> None:
    labels = 'live_version="1",model="m",version="2"'
    page = "".join(
        f"# TYPE frostline_shadow_{name} counter\nfrostline_shadow_{name}_total{{{labels}}} {count}\n"
        for name, count in (("rows", 90), ("disagreements", 5), ("failed_rows", 10))
    )
    assert agreement.counted(page, "m", 2, 1) == agreement.Seen(100, 15)
    assert agreement.counted(page, "m", 3, 1) is None
    assert agreement.counted(page, "m", 2, 4) is None


@pytest.mark.parametrize(
    ("url", "sent"),
    [
        ("http://127.0.0.1:8002/metrics", True),
        ("http://localhost:8002/metrics", True),
        ("https://gpu-box:8002/metrics", True),
        ("http://gpu-box:8002/metrics", False),
        ("http://10.0.0.7:8002/metrics", False),
    ],
)
def test_a_token_is_not_sent_over_a_network_in_plain_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str, sent: bool
) -> None:
    token = tmp_path / "token"
    token.write_text("secret\n")
    asked: list[urllib.request.Request] = []

    def answered(_: object, request: urllib.request.Request, timeout: float) -> io.BytesIO:
        asked.append(request)
        return io.BytesIO(b"page")

    monkeypatch.setattr(urllib.request.OpenerDirector, "open", answered)
    assert agreement.scraper(url, token)() == "page"
    assert dict(asked[0].header_items()).get("Authorization") == ("Bearer secret" if sent else None)


class Pages(BaseHTTPRequestHandler):
    """Answers `page`, or leads elsewhere, and keeps what was asked for with which token."""

    asked: ClassVar[list[tuple[str, str | None]]] = []
    elsewhere = ""

    def do_GET(self) -> None:
        self.asked.append((self.path, self.headers["Authorization"]))
        self.send_response(302 if self.elsewhere and self.path == "/metrics" else 200)
        self.send_header("Location", self.elsewhere)
        self.end_headers()
        self.wfile.write(b"page")

    def log_message(self, *_: object) -> None:
        """Nothing."""


@pytest.fixture
def pages(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of a server of pages."""
    monkeypatch.setattr(Pages, "asked", [])
    with ThreadingHTTPServer(("127.0.0.1", 0), Pages) as server:
        serving = threading.Thread(target=server.serve_forever, args=(0.01,))
        serving.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        serving.join()


def test_neither_a_proxy_nor_whoever_is_redirected_to_is_shown_the_token(
    pages: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FROSTLINE_TOKEN", "secret\n")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.setattr(Pages, "elsewhere", "/other")
    assert agreement.scraper(f"{pages}/metrics", None)() == "page"
    assert Pages.asked == [("/metrics", "Bearer secret"), ("/other", None)]


@pytest.mark.parametrize(
    ("content", "sentence"),
    [(b"zo\xc3\xab", "a token is one line of ASCII"), (b"a\nb", "a token is one line of ASCII"), (None, "cannot read")],
)
def test_a_token_that_cannot_be_sent_is_refused(
    models: Path, tmp_path: Path, capsys: Capture, content: bytes | None, sentence: str
) -> None:
    rollouts.write(models / "digits", Rollout({"stable": 2}, shadow=3))
    if content is not None:
        (tmp_path / "token").write_bytes(content)
    command = ["promote", "digits", "--models", str(models), "--when-agreeing", "0.9"]
    assert cli.run([*command, "--token-file", str(tmp_path / "token")]) == 2
    assert sentence in capsys.readouterr().err


@pytest.mark.parametrize(
    "option", [["--rows", "10"], ["--within", "1m"], ["--metrics", "http://localhost:8002/metrics"]]
)
def test_what_only_waiting_for_agreement_takes_is_refused_without_it(
    models: Path, capsys: Capture, option: list[str]
) -> None:
    assert cli.run(["promote", "digits", "--models", str(models), "--shadow", *option]) == 2
    assert f"{option[0]}: only --when-agreeing takes it" in capsys.readouterr().err
    assert rollouts.read(models / "digits", FileReader(models)) is None


def test_metrics_that_need_a_token_say_so(models: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    rollouts.write(models / "digits", Rollout({"stable": 2}, shadow=3))

    def refuses(*_: object, **__: object) -> None:
        raise urllib.error.HTTPError("http://gpu-box", 401, "Unauthorized", Message(), None)

    monkeypatch.setattr(urllib.request.OpenerDirector, "open", refuses)
    assert cli.run(["promote", "digits", "--models", str(models), "--when-agreeing", "0.9"]) == 1
    assert "401: Unauthorized; they need a token (--token-file)" in capsys.readouterr().err
