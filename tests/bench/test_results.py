"""Goals, tables, sentences and the document: what becomes of the numbers."""

import io
import math
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from bench import overload, scaling
from bench.__main__ import chosen, markdown
from bench.measure import document, report
from bench.measure.rounds import Record
from bench.measure.scenarios import ROWS
from bench.measure.targets import GOALS, Goal, Verdict, less_the_model, middle, quotient, verdicts
from frostline.tune.openloop import Outcome

RATE = Goal("rate", middle("a", "rate"), 100)
TIME = Goal("time", middle("a", "ms"), 2.0, least=False, unit="{:.1f} ms")


def test_a_goal_is_met_by_the_median_of_the_rounds() -> None:
    (verdict,) = verdicts({"a": {"rate": [1.0, 101.0, 500.0]}}, [RATE])
    assert verdict.met
    assert verdict.cells() == ("rate", "≥ 100/s", "101/s", "met")


def test_a_missed_goal_says_by_how_much() -> None:
    assert Verdict(RATE, 80.0).cells()[2:] == ("80/s", "20% below")
    assert Verdict(TIME, 3.0).cells()[1:] == ("≤ 2.0 ms", "3.0 ms", "50% above")
    assert not Verdict(TIME, 3.0).met


@pytest.mark.parametrize("results", [{}, {"a": {}}, {"a": {"rate": [math.nan]}}])
def test_what_was_not_measured_is_not_met(results: dict[str, dict[str, list[float]]]) -> None:
    (verdict,) = verdicts(results, [RATE])
    assert not verdict.met
    assert verdict.cells()[2:] == ("-", "not measured")


def test_a_ratio_is_taken_within_each_round() -> None:
    # The machine was twice as fast in the second round, for both.
    results = {"ours": {"rate": [9.0, 20.0, 10.0]}, "floor": {"rate": [10.0, 20.0, 20.0]}}
    assert quotient(("ours", "rate"), ("floor", "rate"))(results) == 0.9


def test_an_image_is_compared_without_the_models_own_time() -> None:
    rates = {"image float32@8 C++ echo": 1000.0, "image float32@8": 500.0, "image ONNX Runtime": 1000.0}
    assert less_the_model({name: {"rate": [rate]} for name, rate in rates.items()}) == pytest.approx(1.0)


def test_a_table_shows_each_row_beside_its_floor() -> None:
    record = Record()
    for rate, echo in ((50.0, 100.0), (30.0, 100.0), (40.0, 40.0)):
        record.add({"mlp@1": {"rate": rate, "p50_ms": 1.0, "cpu_ms": 0.25}, "mlp@1 C++ echo": {"rate": echo}})
    ours, echo_line = report.everything(record.results).rows
    assert ours == ("mlp@1", "40", "30 to 50", "1.000", "", "0.2500", "", "0.50")
    assert echo_line[-1] == ""


def test_brackets_in_a_cell_are_no_markup() -> None:
    sheet = report.Sheet("t", ("line", "µs"), (("active[call_id] = entry", "1"),))
    file = io.StringIO()
    Console(file=file, width=80).print(sheet.table())
    assert "active[call_id] = entry" in file.getvalue()
    assert "| active[call_id] = entry | 1 |" in sheet.markdown()


def test_rows_are_measured_in_their_order_whatever_order_is_asked_for() -> None:
    assert chosen("cnn@64, mlp@1") == ["mlp@1", "cnn@64"]
    assert chosen(None) == list(ROWS)
    with pytest.raises(ValueError, match="there is no row 'mlp'"):
        chosen("mlp")


def test_the_document_says_what_was_not_measured_and_why() -> None:
    text = markdown({"tiny@64": {"rate": [60_000.0]}}, {"stream": "the server says UNIMPLEMENTED"}, "today")
    assert "Measured today." in text
    assert "Not measured: stream: the server says UNIMPLEMENTED." in text
    assert "| 4-16-3 network, 64 in flight | ≥ 50,000/s | 60,000/s | met |" in text
    assert text.count("not measured") == len(GOALS) - 1
    assert "concurrency.png" not in text


def test_a_section_is_replaced_and_nothing_else() -> None:
    text = f"before\n{document.begin('x')}\nold\n{document.end('x')}\nafter\n"
    once = document.with_section(text, "x", "new\n")
    assert once == f"before\n{document.begin('x')}\n\nnew\n\n{document.end('x')}\nafter\n"
    assert document.with_section(once, "x", "new") == once


def test_a_document_without_the_section_is_refused() -> None:
    with pytest.raises(ValueError, match="bench: y"):
        document.with_section("nothing here", "y", "new")


@pytest.mark.parametrize("section", ["results", "growth", "overload", "profile before", "profile after", "raw"])
def test_our_document_has_a_place_for_every_result(section: str) -> None:
    text = (Path(__file__).parents[2] / document.DOCUMENT).read_text(encoding="utf-8")
    assert "fresh" in document.with_section(text, section, "fresh")


def test_a_line_is_found_with_its_error_in_proportion() -> None:
    a, b, off = scaling.line([1, 10, 100], [12.0, 30.0, 210.0])
    assert (a, b, off) == pytest.approx((10.0, 2.0, 0.0), abs=1e-9)
    assert scaling.line([1, 2, 3], [10.0, 30.0, 10.0])[2] > 0.3


def test_sentences_say_what_the_numbers_say() -> None:
    results = {f"rows {n}": {"rate": [1e6 / (100 + 2 * n)]} for n in scaling.ROWS}
    results |= {f"kilobytes {n}": {"rate": [1e6 / (50 + 0.5 * n)]} for n in scaling.KILOBYTES}
    results |= {f"models {n}": {"rate": [1e6 / 20]} for n in scaling.MODELS}
    results |= {f"connections {n}": {"rate": [1e6 / (20 if n < 1000 else 25)]} for n in scaling.CONNECTIONS}
    results["ONNX Runtime"] = {"rate": [1e6]}
    rows, size, models, connections = scaling.grown(results)
    assert rows.sentence.startswith(
        "A request of n rows takes 100 + 2.0 n µs (within 0%); ONNX Runtime alone takes 1.0 µs"
    )
    assert size.sentence == "A message of n KB takes 50 + 0.50 n µs (within 0%): 2.0 GB/s and a fixed part."
    assert "takes 20.0 instead of 20.0 µs, 0% less" in models.sentence
    assert (
        connections.sentence == "With 1,000 connections instead of 1 a request takes 25.0 instead of 20.0 µs, 25% more."
    )
    assert connections.micros == pytest.approx([20, 20, 25])


def test_an_overload_is_summed_up_without_its_first_fifth() -> None:
    outcome = Outcome(
        due_s=np.array([0.1, 0.3, 0.4, 0.5, 0.6, 0.7]),
        late_s=np.zeros(6),
        latency_s=np.array([9.0, 0.005, 0.020, 0.001, 0.003, np.nan]),
        status=np.array([0, 0, 0, 8, 4, -1]),
    )
    found = overload.summary(outcome, 1.0, 10.0)
    assert {
        name: found[name] * 0.8 for name in ("offered", "inside", "outside", "refused", "unanswered")
    } == pytest.approx({"offered": 5, "inside": 1, "outside": 1, "refused": 2, "unanswered": 1})
    assert found["refused_p50_ms"] == pytest.approx(2.0)
    assert found["status_8"] == found["status_4"] == pytest.approx(1 / 0.8)


def test_without_refusals_their_latency_is_no_number() -> None:
    outcome = Outcome(np.array([0.5]), np.zeros(1), np.array([0.001]), np.array([0]))
    assert math.isnan(overload.summary(outcome, 1.0, 10.0)["refused_p99_ms"])
