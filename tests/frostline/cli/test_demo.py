"""The demo, whole: it trains, serves, predicts, measures and stops for real; only the training is shortened."""

import io
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
    assert f"frostline predict digits {tmp_path}/digits/1/golden.npz" in shown


@pytest.mark.usefixtures("short")
def test_an_accuracy_below_the_promise_fails_the_demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("frostline.cli.demo.LEAST_ACCURACY", 1.01)
    with pytest.raises(demo.DemoFailed, match=r"held-out pictures were right, less than 101%"):
        demo.run(models=tmp_path, device="cpu", seed=1, console=Console(file=io.StringIO()))
