"""The demo, whole: it trains, serves, predicts, measures and stops for real; only the training is shortened."""

import io
import re
import signal
import threading
import urllib.request
from pathlib import Path

import pytest
from rich.console import Console

from frostline.cli import demo
from frostline_training.config import Hyperparameters, Mlp, Recipe


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    def recipe(name: str) -> Recipe:
        return Recipe(name=name, data="digits", network=Mlp(), hyperparameters=Hyperparameters(epochs=8))

    monkeypatch.setattr("frostline.cli.demo.find_recipe", recipe)
    monkeypatch.setattr("frostline.cli.demo.LEAST_ACCURACY", 0.8)


@pytest.mark.usefixtures("short")
def test_the_demo_shows_every_step_and_ends_the_server(tmp_path: Path) -> None:
    out = io.StringIO()
    demo.run(models=tmp_path, device="cpu", seed=None, console=Console(file=out, width=120))
    shown = out.getvalue()
    headings = [line[0] for line in shown.splitlines() if "──────" in line and line[0].isdigit()]
    assert headings == ["1", "2", "3", "4", "5"]
    assert "ready  address=127.0.0.1:" in shown
    assert "of 360 held-out pictures" in shown
    assert "░" in shown
    assert ["frostline_requests_total", "code=OK", "0", "360"] in [line.split() for line in shown.splitlines()]
    assert "360 requests became" in shown
    assert "The server ended with code 0." in shown
    assert "frostline open: the page of that server, http://127.0.0.1:8000/" in shown
    assert f"frostline predict digits {tmp_path}/digits/1/golden.npz" in shown


class _Shown(io.StringIO):
    """What is printed, which tells when a user may press Ctrl-C."""

    def __init__(self) -> None:
        super().__init__()
        self.stays = threading.Event()

    def write(self, text: str) -> int:
        written = super().write(text)
        if "Ctrl-C stops the server" in text:
            self.stays.set()
        return written


@pytest.mark.usefixtures("short", "sigint")
def test_with_stay_it_serves_until_ctrl_c(tmp_path: Path) -> None:
    out, user = _Shown(), threading.main_thread().ident
    assert user is not None
    answers: list[int] = []

    def visit() -> None:
        try:
            assert out.stays.wait(100)
            found = re.search(r"http://127\.0\.0\.1:\d+/", out.getvalue())
            assert found is not None
            with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(f"{found[0]}v2") as answer:
                answers.append(answer.status)
        finally:
            signal.pthread_kill(user, signal.SIGINT)

    visitor = threading.Thread(target=visit)
    visitor.start()
    demo.run(models=tmp_path, device="cpu", seed=None, console=Console(file=out, width=120), stay=True)
    visitor.join()
    assert answers == [200]
    assert "The server ended with code 0." in out.getvalue()


@pytest.mark.usefixtures("short")
def test_an_accuracy_below_the_promise_fails_the_demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("frostline.cli.demo.LEAST_ACCURACY", 1.01)
    with pytest.raises(demo.DemoFailed, match=r"held-out pictures were right, less than 101%"):
        demo.run(models=tmp_path, device="cpu", seed=1, console=Console(file=io.StringIO()))
