"""`frostline tune`, with real servers and budgets too small to mean anything: what is written, and what is not."""

import sys
from pathlib import Path

import numpy as np
import pytest
from google.protobuf import text_format

from frostline.cli import main as cli
from frostline.client.catalog import Model, TensorSpec
from frostline.pb import inference_pb2 as pb
from frostline.pb import model_config_pb2
from frostline.tune import sweep, tuner
from tests.support import onnx_models

CONFIG = """# Mine.
max_batch_size: 8
parameters { key: "slo_ms" value { string_value: "0.0001" } }
"""


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two candidates and loads that a busy machine carries."""
    monkeypatch.setattr(sweep, "SIZES", (8, 2))
    monkeypatch.setattr(sweep, "FRACTIONS", (0.02,))
    monkeypatch.setattr(sweep, "shapes", lambda cores, gpu: [(2, 1)])


def tuned(models: Path, slo_ms: float, *more: str) -> int:
    budget = ("--slo-ms", str(slo_ms), "--seconds", "0.6", "--device", "cpu")
    picture = ("--picture", str(models / "pictures" / "linear.png"))
    return cli.run(["tune", "linear", "--models", str(models), *budget, *picture, *more])


def test_the_best_configuration_is_written_into_the_one_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    onnx_models.write_artifact(tmp_path, "linear")
    path = tmp_path / "linear" / "config.pbtxt"
    path.write_text(CONFIG)
    assert tuned(tmp_path, 5000, "--dry-run") == 0
    assert path.read_text() == CONFIG, "a dry run writes nothing"
    assert [each.name for each in (tmp_path / "linear").glob("*config*")] == ["config.pbtxt"]
    assert tuned(tmp_path, 5000) == 0
    text = path.read_text()
    assert text.startswith("# Mine.\n")
    assert 'key: "slo_ms"' in text, "what is not tuned stays"
    config = model_config_pb2.ModelConfig()
    text_format.Parse(text, config)
    assert config.max_batch_size in (2, 8)
    assert [group.count for group in config.instance_group] == [2]
    assert config.parameters["intra_op_thread_count"].string_value == "1"
    assert (tmp_path / "linear" / ".config.pbtxt.before-tune").read_text() == CONFIG
    out = capsys.readouterr().out
    assert "best" in out
    assert "+instance_group {" in out
    assert (tmp_path / "pictures" / "linear.png").read_bytes().startswith(b"\x89PNG")


def test_where_nothing_keeps_within_the_limit_the_best_there_is_is_named_and_nothing_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    onnx_models.write_artifact(tmp_path, "linear", 1, onnx_models.no_batch_axis(), golden=False, labels=None)
    assert tuned(tmp_path, 0.01) == 1
    error = capsys.readouterr().err
    assert error.startswith("frostline: nothing keeps 99 % of the answers within 0.01 ms; the nearest is 2 x 1 threads")
    assert error.endswith("nothing was written\n")
    assert not (tmp_path / "linear" / "config.pbtxt").exists()


def test_a_model_there_is_not_is_named_with_those_there_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "other" / "1").mkdir(parents=True)
    assert tuned(tmp_path, 5) == 2
    assert capsys.readouterr().err == f"frostline: no model 'linear' in {tmp_path}; there are: other\n"
    assert tuned(tmp_path / "nowhere", 5) == 2


def test_a_model_that_cannot_be_served_is_said_to_be_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    version = onnx_models.write_artifact(tmp_path, "linear", card=False, golden=False)
    (version / "model.onnx").write_bytes(b"no network")
    assert tuned(tmp_path, 5) == 1
    assert "model.onnx cannot be read" in capsys.readouterr().err


def test_a_configuration_that_is_none_is_not_touched(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    onnx_models.write_artifact(tmp_path, "linear")
    (tmp_path / "linear" / "config.pbtxt").write_text("{")
    assert tuned(tmp_path, 5) == 1
    assert "is not a model configuration: line 1" in capsys.readouterr().err
    assert (tmp_path / "linear" / "config.pbtxt").read_text() == "{"


def test_without_matplotlib_there_is_no_picture_and_no_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    onnx_models.write_artifact(tmp_path, "linear")
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert tuned(tmp_path, 5000, "--dry-run") == 0
    assert "matplotlib is not installed" in capsys.readouterr().out
    assert not (tmp_path / "pictures").exists()


def test_without_the_load_generators_library_it_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("frostline.tune.tuner", "frostline.tune.openloop", "frostline.tune.http2"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.delattr("frostline.tune.tuner", raising=False)
    monkeypatch.setitem(sys.modules, "hpack", None)
    assert tuned(tmp_path, 5) == 1
    assert "pip install 'frostline[tune]'" in capsys.readouterr().err


def test_a_row_is_the_golden_samples_or_made_up(tmp_path: Path) -> None:
    version = onnx_models.write_artifact(tmp_path, "linear")
    spec = TensorSpec("input", "FP32", (-1, 4))
    model = Model("linear", "1", "READY", inputs=(spec,), max_batch_size=8)
    rows = [
        np.frombuffer(pb.ModelInferRequest.FromString(tuner._request(model, golden)[5:]).raw_input_contents[0], "<f4")
        for golden in (version / "golden.npz", tmp_path / "none")
    ]
    np.testing.assert_array_equal(rows[0], onnx_models.rows(8)[0])
    assert rows[1].shape == (4,)
    assert ((rows[1] >= 0) & (rows[1] < 1)).all()
    for odd in (TensorSpec("input", "BYTES", (-1, 4)), TensorSpec("input", "FP32", (-1, -1))):
        with pytest.raises(tuner.CannotTune, match=r"add a golden\.npz"):
            tuner._request(Model("linear", "1", "READY", inputs=(odd,), max_batch_size=8), tmp_path / "none")


def test_settings_that_no_server_starts_with_are_wrong_usage_in_the_servers_own_words(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    onnx_models.write_artifact(tmp_path, "linear")
    assert tuned(tmp_path, 5, "--device", "cuda:99") == 2
    error = capsys.readouterr().err
    assert error.startswith("frostline: the server ended with code 2 before it was ready: ")
    assert "cuda:99" in error
