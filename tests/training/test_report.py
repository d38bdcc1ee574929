"""What a person sees of a training run."""

import io

import pytest
from rich.console import Console

from training.report import LiveReport, epoch_line
from training.trainer import Epoch, Scores


def _epoch(number: int) -> Epoch:
    return Epoch(number, 3e-3, Scores(0.25, 0.875), Scores(0.5, 0.75), improved=True)


def _shown(*, terminal: bool, epochs: int) -> str:
    console = Console(file=io.StringIO(), force_terminal=terminal, width=100, color_system=None)
    with LiveReport(console, epochs=epochs, steps=2) as report:
        for number in range(1, epochs + 1):
            report.step()
            report.step()
            report.epoch(_epoch(number))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_an_epoch_in_one_line_has_loss_accuracy_and_learning_rate() -> None:
    assert epoch_line(_epoch(1)) == "loss 0.2500 accuracy 87.5%, validation 0.5000 75.0%, lr 3e-03"


def test_a_terminal_gets_a_live_line_that_ends_at_the_last_epoch() -> None:
    shown = _shown(terminal=True, epochs=3)
    assert "epoch 3/3" in shown
    assert epoch_line(_epoch(3)) in shown


@pytest.mark.parametrize(("epochs", "lines"), [(5, 5), (40, 11)])
def test_elsewhere_a_few_plain_lines_are_printed(epochs: int, lines: int) -> None:
    shown = _shown(terminal=False, epochs=epochs).splitlines()
    assert len(shown) == lines
    assert all(line.startswith("epoch ") for line in shown)
    assert "\x1b" not in "".join(shown)
