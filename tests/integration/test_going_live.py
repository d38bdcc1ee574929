"""Versions that go live because they are better, and canaries that are taken back, on real servers under load."""

import itertools
import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import ANY

import grpc
import numpy as np
import onnx
import pytest
import structlog

from frostline.cli import main as cli
from frostline.pb import inference_pb2 as pb
from frostline_server.errors import ConfigError
from frostline_server.regular_files import FileReader
from frostline_server.repository import rollout as rollouts
from frostline_server.repository.canary_watch import CanaryWatch
from frostline_server.repository.rollout import Rollout
from frostline_server.repository.rollout_steps import give_up, next_step, with_canary
from frostline_server.repository.take_back import GivenUp, TakeBack
from tests.support import calls
from tests.support import onnx_models as zoo
from tests.support.http_calls import ask
from tests.support.servers import TIMEOUT_S, Running, running, until

Capture = pytest.CaptureFixture[str]

_CALLERS = 3


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """`m`: version 1; 2, which answers the same; 3, which answers otherwise; and no version promoted."""
    for version, weights in enumerate((zoo.WEIGHTS, zoo.WEIGHTS, -zoo.WEIGHTS), start=1):
        zoo.write_artifact(tmp_path, "m", version, zoo.product(weights))
    return tmp_path


class Load:
    """Callers that ask without a pause; how each call ended, by version, and every failure."""

    def __init__(self, address: str, model: str, row: Callable[[int], Any]) -> None:
        self._address = address
        self._model = model
        self._row = row
        self._stop = threading.Event()
        self._turns = [0] * _CALLERS
        self.answered: Counter[str] = Counter()
        self.failed: list[str] = []

    def ask(self, number: int) -> None:
        """Be one of the callers, until `stop`."""
        with grpc.insecure_channel(self._address) as channel:
            stub = calls.stub(channel)
            for turn in itertools.count(number):
                if self._stop.is_set():
                    return
                self._turns[number] += 1
                request = calls.infer_request(self._model, self._row(turn))
                try:
                    response = stub.ModelInfer(request, timeout=TIMEOUT_S)
                except grpc.RpcError as error:
                    self.failed.append(str(error.details()))
                else:
                    self.answered[response.model_version] += 1

    def renew(self) -> None:
        """Wait until every call that is under way has ended, and forget how calls ended until now."""
        before = list(self._turns)
        until(lambda: all(now >= then + 2 for now, then in zip(self._turns, before, strict=True)))
        self.answered.clear()
        self.failed.clear()

    def stop(self) -> None:
        """Have them end."""
        self._stop.set()


@contextmanager
def loaded(server: Running, row: Callable[[int], Any] | None = None, model: str = "m") -> Iterator[Load]:
    """Callers while the block runs."""
    load = Load(server.address, model, row or (lambda turn: {"input": zoo.rows(8)[turn % 8 : turn % 8 + 1]}))
    with ThreadPoolExecutor(_CALLERS) as pool:
        asking = [pool.submit(load.ask, number) for number in range(_CALLERS)]
        try:
            yield load
        finally:
            load.stop()
        for call in asking:
            call.result(TIMEOUT_S)


def tried(models: Path, version: int, rule: TakeBack | None = None, *, canary: float | None = None) -> Rollout:
    """Make a version the shadow, and the canary of version 1 where it has a share."""
    rollout = next_step(Rollout({"stable": 1}), [1, 2, 3], version, canary=canary, shadow=True, take_back=rule)
    rollouts.write(models / "m", rollout)
    return rollout


def now(models: Path) -> Rollout | None:
    return rollouts.read(models / "m", FileReader(models))


def said(capsys: Capture) -> list[str]:
    """What commands printed, without what the server of the same process logged."""
    return [line for line in capsys.readouterr().out.splitlines() if line.startswith("m: ")]


def metric(server: Running, name: str) -> list[str]:
    """The lines of a metric."""
    return [line for line in ask(server.metrics_url, "/metrics").body.decode().splitlines() if line.startswith(name)]


# Staged versions


def test_a_version_that_comes_and_waits_is_told_of(models: Path) -> None:
    rollouts.write(models / "m", Rollout({"stable": 1}))
    with structlog.testing.capture_logs() as logged, running(models, poll_s=0.2) as server:
        zoo.write_artifact(models, "m", 4, zoo.product(zoo.WEIGHTS))
        until(lambda: metric(server, "frostline_rollout_decisions_total"))
        [counted] = metric(server, "frostline_rollout_decisions_total")
    assert counted == 'frostline_rollout_decisions_total{decision="staged",model="m"} 1.0'
    [line] = [each for each in logged if each["event"] == "audit"]
    assert (line["decision"], line["rollout"]) == ("staged", "version 4 is staged, version 1 is stable")


# Canaries


def test_a_canary_that_answers_otherwise_is_taken_back_and_no_call_fails(models: Path) -> None:
    tried(models, 3, TakeBack(disagreement=0.05, min_samples=40), canary=30)
    with structlog.testing.capture_logs() as logged, running(models, poll_s=0.2) as server, loaded(server) as load:
        until(lambda: (rollout := now(models)) is not None and rollout.taken_back is not None)
        until(lambda: server.server.repository.traffic("m").routes.labels == {"stable": 1})
        assert load.failed == []
        load.renew()
        until(lambda: load.answered["1"] > 50)
        with grpc.insecure_channel(server.address) as channel:
            config = calls.stub(channel).ModelConfig(pb.ModelConfigRequest(name="m"), timeout=TIMEOUT_S).config
        until(lambda: metric(server, "frostline_rollout_decisions_total"))
        [counted] = metric(server, "frostline_rollout_decisions_total")
        [info] = metric(server, "frostline_canary_taken_back_info")
    rollout = now(models)
    assert rollout is not None
    assert rollout.taken_back is not None
    assert (rollout.labels, rollout.split, rollout.shadow, rollout.take_back) == ({"stable": 1}, {}, None, None)
    assert "otherwise than the stable version; 5.00% are allowed" in rollout.taken_back.reason
    assert load.failed == []
    assert load.answered.keys() == {"1"}
    # Where an operator sees it.
    assert rollout.taken_back.told in config.parameters["frostline.rollout_problem"].string_value
    assert counted == 'frostline_rollout_decisions_total{decision="taken_back",model="m"} 1.0'
    assert 'version="3"' in info
    [line] = [each for each in logged if each["event"] == "audit"]
    assert (line["method"], line["decision"], line["model"]) == ("Rollout", "taken_back", "m")
    assert rollout.taken_back.reason in line["rollout"]
    # And after a restart.
    with running(models, poll_s=0.2) as server:
        assert server.server.repository.traffic("m").routes.labels == {"stable": 1}
        assert server.server.repository.traffic("m").problems == (rollout.taken_back.told,)


def write_failing(models: Path) -> None:
    """`m`: version 1; and 2, which fails where a token is 2 or 3."""
    good, bad = zoo.lookup(), zoo.lookup()
    [table] = bad.graph.initializer
    table.CopyFrom(onnx.numpy_helper.from_array(np.array([0, 2], np.int64), table.name))
    tokens = np.array([[0, 1]], np.int64)
    for version, network in enumerate((good, bad), start=1):
        zoo.write_artifact(models, "m", version, network, inputs={"tokens": tokens}, labels=None)


def test_a_canary_that_fails_is_taken_back_and_then_no_call_fails(tmp_path: Path) -> None:
    write_failing(tmp_path)
    rule = TakeBack(errors=0.02, min_samples=40)
    rollouts.write(tmp_path / "m", next_step(Rollout({"stable": 1}), [1, 2], 2, canary=30, take_back=rule))
    with (
        running(tmp_path, poll_s=0.2, log_level="error") as server,
        loaded(server, lambda turn: {"tokens": np.array([[turn % 4, 0]], np.int64)}) as load,
    ):
        until(lambda: (rollout := now(tmp_path)) is not None and rollout.taken_back is not None)
        until(lambda: server.server.repository.traffic("m").routes.labels == {"stable": 1})
        load.renew()
        until(lambda: load.answered["1"] > 50)
        assert load.failed == []
    rollout = now(tmp_path)
    assert rollout is not None
    assert rollout.taken_back is not None
    assert "requests failed, and 0.00% of the stable version's" in rollout.taken_back.reason


def test_a_good_canary_stays_however_long_it_is_judged(models: Path) -> None:
    rollout = tried(models, 2, TakeBack(errors=0.01, latency=3.0, disagreement=0.01, min_samples=20), canary=40)
    worse: list[str] = []
    with running(models, poll_s=0.2) as server, loaded(server) as load:
        watch = CanaryWatch(
            server.server.reconciler.rollouts, server.server.repository, lambda _, __, reason: worse.append(reason)
        )
        for looks in range(1, 41):
            watch.look()
            until(lambda wanted=10 * looks: load.answered["2"] > wanted)  # type: ignore[misc]  # mypy takes a lambda's default for none
    assert worse == []
    assert now(models) == rollout
    assert load.failed == []
    assert load.answered.keys() == {"1", "2"}


@pytest.mark.parametrize(
    ("step", "ended"),
    [
        (lambda rollout: give_up(rollout, "90.00% of 50 rows agree", "2026-01-02T03:04:05+00:00"), "goes on"),
        (lambda rollout: with_canary(rollout, 2, 60, rollout.take_back), "begins anew"),
    ],
    ids=["given up", "another share"],
)
def test_a_step_of_the_shadow_leaves_the_canarys_trial_alone_and_one_of_the_canary_begins_another(
    tmp_path: Path, step: Callable[[Rollout], Rollout], ended: str
) -> None:
    write_failing(tmp_path)
    rule = TakeBack(errors=0.02, min_samples=40)
    rollout = next_step(Rollout({"stable": 1}), [1, 2], 2, canary=50, shadow=True, take_back=rule)
    rollouts.write(tmp_path / "m", rollout)
    worse: list[str] = []
    with running(tmp_path, log_level="error") as server, grpc.insecure_channel(server.address) as channel:
        reconciler, tokens = server.server.reconciler, {"tokens": np.array([[2, 0]], np.int64)}
        watch = CanaryWatch(reconciler.rollouts, server.server.repository, lambda _, __, reason: worse.append(reason))
        for changed in (rollout, step(rollout)):
            rollouts.write(tmp_path / "m", changed)
            reconciler.reconcile()
            assert reconciler.rollouts()["m"] == changed
            watch.look()
            # Too few to judge by, but enough together.
            for _ in range(30):
                request = calls.infer_request("m", tokens)
                request.model_version = "1"
                calls.stub(channel).ModelInfer(request, timeout=TIMEOUT_S)
                request.model_version = "2"
                with pytest.raises(grpc.RpcError):
                    calls.stub(channel).ModelInfer(request, timeout=TIMEOUT_S)
            watch.look()
    assert [reason[:7] for reason in worse] == (["100.00%"] if ended == "goes on" else [])


def test_a_canary_that_is_slow_is_worse(tmp_path: Path) -> None:
    row = {"input": np.ones((1, 1), np.float32)}
    # Tens of milliseconds each: more than a busy machine adds to the other version's.
    for version, turns in ((1, 1), (2, 5_000)):
        zoo.write_artifact(tmp_path, "m", version, zoo.repeating(turns), inputs=row, golden=False, labels=None)
    rule = TakeBack(latency=2.0, min_samples=16)
    rollouts.write(tmp_path / "m", next_step(Rollout({"stable": 1}), [1, 2], 2, canary=50, take_back=rule))
    worse: list[str] = []
    with running(tmp_path, poll_s=0.2) as server, grpc.insecure_channel(server.address) as channel:
        watch = CanaryWatch(
            server.server.reconciler.rollouts, server.server.repository, lambda _, __, reason: worse.append(reason)
        )
        watch.look()
        # A period whose last batch is not counted yet counts for nothing, so it may take a few more than 16.
        for _ in range(80):
            for name in ("1", "2"):
                request = calls.infer_request("m", row)
                request.model_version = name
                calls.stub(channel).ModelInfer(request, timeout=TIMEOUT_S)
            watch.look()
            if worse:
                break
    [reason] = worse
    assert "periods more than 2 times as long, which is not allowed" in reason


def test_where_the_folder_cannot_be_written_the_take_back_holds_in_memory_until_the_file_changes(
    models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rollout = tried(models, 3, TakeBack(disagreement=0.05, min_samples=40), canary=30)

    def refused(*_: Any) -> None:
        raise ConfigError("cannot write rollout.json: Read-only file system")

    monkeypatch.setattr(rollouts, "write", refused)
    with structlog.testing.capture_logs() as logged, running(models, poll_s=0.1) as server, loaded(server) as load:
        repository = server.server.repository
        until(lambda: repository.traffic("m").routes.labels == {"stable": 1})
        server.server.reconciler.reconcile()
        assert repository.traffic("m").routes.labels == {"stable": 1}
        assert "version 3 was taken back at " in repository.traffic("m").problems[0]
        assert now(models) == rollout
        monkeypatch.undo()
        rollouts.write(models / "m", Rollout({"stable": 2}))
        until(lambda: repository.traffic("m").routes.default == 2)
        assert repository.traffic("m").problems == ()
    assert load.failed == []
    assert any("the take-back holds in this process alone" in str(each.get("warning")) for each in logged)


# Promotion when agreeing


def promoted(models: Path, server: Running, *arguments: str) -> int:
    metrics = f"{server.metrics_url}/metrics"
    return cli.run(["promote", "m", "--models", str(models), "--metrics", metrics, *arguments])


def test_a_shadow_that_agrees_is_promoted_under_load_and_no_call_fails(models: Path, capsys: Capture) -> None:
    tried(models, 2)
    with running(models, poll_s=0.2) as server, loaded(server) as load:
        assert promoted(models, server, "--when-agreeing", "0.99", "--rows", "50") == 0
        until(lambda: load.answered["2"] > 50)
    waiting, done = said(capsys)
    assert waiting == "m: waiting until version 2 answers 99.0000% of 50 rows like version 1"
    assert done.startswith("m: 100.00% of ")
    assert done.endswith(" rows agree; version 2 is stable")
    assert now(models) == Rollout({"stable": 2}, previous=(1,))
    assert load.failed == []


def test_a_shadow_that_does_not_agree_is_given_up_and_goes_on(models: Path, capsys: Capture) -> None:
    rollout = tried(models, 3)
    with (
        structlog.testing.capture_logs() as logged,
        running(models, poll_s=0.2) as server,
        loaded(server) as load,
    ):
        assert promoted(models, server, "3", "--when-agreeing", "0.99", "--rows", "50") == 3
        until(lambda: server.server.repository.decisions.get("m", {}).get("given_up"))
        assert server.server.repository.traffic("m").routes.shadow == 3
    _, given_up = said(capsys)
    assert given_up.startswith("m: given up: ")
    assert given_up.endswith("rows agree, and 99.00% are wanted; the test of version 3 goes on")
    after = now(models)
    assert after is not None
    assert after.given_up is not None
    assert given_up == f"m: given up: {after.given_up.reason}; the test of version 3 goes on"
    assert (replace(after, given_up=None), load.failed) == (rollout, [])
    assert load.answered.keys() == {"1"}
    steps = [line for line in logged if line["event"] == "audit" and line.get("decision") == "given_up"]
    assert [line["model"] for line in steps] == ["m"]
    assert after.given_up.reason in steps[0]["rollout"]


def test_without_traffic_the_promotion_is_given_up_in_time(models: Path, capsys: Capture) -> None:
    rollout = tried(models, 2)
    with running(models, poll_s=0.2) as server:
        assert promoted(models, server, "--when-agreeing", "0.99", "--within", "0.1s") == 3
    assert "given up: no rows are compared yet, and the time is over" in capsys.readouterr().out
    after = now(models)
    assert after == replace(rollout, given_up=GivenUp(2, "no rows are compared yet, and the time is over", ANY))


def test_a_promotion_ends_when_somebody_else_changes_the_rollout(models: Path, capsys: Capture) -> None:
    tried(models, 2)
    with running(models, poll_s=0.2) as server, ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(promoted, models, server, "--when-agreeing", "0.99", "--within", "30s")
        until(lambda: "waiting until" in capsys.readouterr().out)
        assert cli.run(["rollback", "m", "--models", str(models)]) == 0
        assert waiting.result(TIMEOUT_S) == 1
    assert "somebody else has changed the rollout: version 1 is stable; nothing was promoted" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ((), 2, "m has no shadow, so nothing is compared; begin with: frostline promote m --shadow"),
        (("--shadow",), 2, "follows a test that goes on"),
        (("--within", "soon"), 2, "--within soon: expected a number and its unit, s, m or h, such as 10m"),
        (
            ("--metrics", "localhost"),
            2,
            "--metrics localhost: expected an address such as http://localhost:8002/metrics",
        ),
    ],
)
def test_what_cannot_be_followed_is_refused(
    models: Path, capsys: Capture, arguments: tuple[str, ...], code: int, words: str
) -> None:
    rollouts.write(models / "m", Rollout({"stable": 1}))
    assert cli.run(["promote", "m", "--models", str(models), "--when-agreeing", "0.9", *arguments]) == code
    assert words in capsys.readouterr().err


def test_a_server_that_is_not_there_is_said(models: Path, capsys: Capture) -> None:
    tried(models, 2)
    command = ["promote", "m", "3", "--models", str(models), "--when-agreeing", "0.9"]
    assert cli.run(command) == 2
    assert "version 3 is not the shadow of m, which is version 2" in capsys.readouterr().err
    command[2] = "2"
    assert cli.run([*command, "--metrics", "http://127.0.0.1:9/metrics"]) == 1
    assert "cannot read the server's metrics: " in capsys.readouterr().err


# Two at once


def test_of_two_promotions_at_once_over_http_one_wins_and_the_other_is_told(models: Path) -> None:
    rollouts.write(models / "m", Rollout({"stable": 1}))
    with running(models, http=True, poll_s=0.2) as server, loaded(server) as load, ThreadPoolExecutor(2) as pool:
        url, together = server.server.http_url, threading.Barrier(2)

        def promote(version: int) -> Any:
            together.wait(TIMEOUT_S)
            return ask(url, "/v2/models/m/promote", {"version": version, "expected": 1})

        answers = list(pool.map(promote, (2, 3)))
        until(lambda: load.answered["2"] + load.answered["3"] > 20)
    won, lost = sorted(answers, key=lambda answer: answer.status)
    assert (won.status, lost.status) == (200, 409)
    assert lost.headers["frostline-error"] == "rollout_changed"
    stable = 2 if won is answers[0] else 3
    assert now(models) == Rollout({"stable": stable}, previous=(1,))
    assert load.failed == []


def test_of_two_commands_at_once_one_wins_and_the_other_is_told(models: Path, capsys: Capture) -> None:
    def promote(version: int, expected: int) -> int:
        return cli.run(["promote", "m", str(version), "--models", str(models), "--expected", str(expected)])

    # Without a rollout the newest is live.
    assert promote(1, 3) == 0
    assert [promote(2, 1), promote(3, 1)] == [0, 1]
    told = "frostline: m: version 2 is live by now, and not version 1; look at it, and decide again\n"
    assert capsys.readouterr().err == told
    assert cli.run(["rollback", "m", "--models", str(models), "--expected", "1"]) == 1
    assert now(models) == Rollout({"stable": 2}, previous=(3, 1))


def test_a_change_between_reading_and_writing_is_noticed(models: Path) -> None:
    rollouts.write(models / "m", Rollout({"stable": 1}))

    def step(before: Rollout | None, there: list[int]) -> Rollout:
        rollouts.write(models / "m", Rollout({"stable": 3}))  # somebody else, just now
        return next_step(before, there, 2)

    with pytest.raises(
        rollouts.RolloutChanged, match="somebody else has just changed the rollout: version 3 is stable"
    ):
        rollouts.change(models / "m", FileReader(models), step)
    assert now(models) == Rollout({"stable": 3})
    assert [path.name for path in (models / "m").iterdir() if path.name.startswith(".")] == []


def test_what_training_writes_the_server_reads_and_the_other_way_round(models: Path) -> None:
    from frostline_training.publishing import rollout as training  # noqa: PLC0415  torch is slow to load

    folder = models / "m"
    assert training.hold(folder).version == 3
    assert now(models) == Rollout({"stable": 3})
    rollouts.write(folder, next_step(now(models), [1, 2, 3], 1, canary=5, shadow=True, take_back=TakeBack(errors=0.1)))
    assert training.promote(folder, 2, training.live(folder))
    assert now(models) == Rollout({"stable": 2}, previous=(3,))
    assert json.loads((folder / "rollout.json").read_text()) == {"labels": {"stable": 2}, "previous": [3]}
