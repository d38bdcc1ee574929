"""One version's folder: its session as the configuration wants it, its weights, its labels, its warm-up."""

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from google.protobuf import text_format

from frostline.pb import inference_pb2
from frostline.pb.model_config_pb2 import ModelConfig
from frostline_server.codec.shared_memory import Regions
from frostline_server.errors import InvalidInput, LoadError
from frostline_server.model.artifact import Artifact, check_artifact, model_file
from frostline_server.model.instance import instance_run
from frostline_server.model.loaded_model import LoadedModel
from frostline_server.model.loader import Loader, label_files, labels_of, open_session
from frostline_server.model.predictions import Predictions
from frostline_server.model.sample_rows import RecentRow
from frostline_server.model.shadow import Tap
from frostline_server.model_config.accelerators import TENSORRT
from frostline_server.regular_files import FileReader
from frostline_server.runtime.devices import CPU, CUDA, Provider
from frostline_server.runtime.session import Session
from tests.support import onnx_models
from tests.support.puppet import TIMEOUT_S, batching

ON_CPU: list[Provider] = [(CPU, {})]
NO_OPENVINO = "openvino needs an ONNX Runtime built with OpenVINOExecutionProvider"
TENSORRT_WANTED = 'optimization { execution_accelerators { gpu_execution_accelerator [ { name: "tensorrt" } ] } }'


def configured(text: str) -> ModelConfig:
    return text_format.Parse(text, ModelConfig())


def opened(
    folder: Path, text: str = "", model: onnx.ModelProto | None = None, warn: Callable[[str], None] = pytest.fail
) -> Session:
    path = folder / "model.onnx"
    path.write_bytes((onnx_models.linear() if model is None else model).SerializeToString())
    return open_session(path, configured(text), ON_CPU, threads=1, strict=True, warn=warn)


# The file


def test_the_file_is_model_onnx_unless_the_configuration_names_another(tmp_path: Path) -> None:
    assert model_file(tmp_path, ModelConfig()) == tmp_path / "model.onnx"
    assert model_file(tmp_path, configured('default_model_filename: "net.onnx"')) == tmp_path / "net.onnx"


def test_a_folder_in_the_files_place_holds_the_file_as_in_triton(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").mkdir()
    assert model_file(tmp_path, ModelConfig()) == tmp_path / "model.onnx" / "model.onnx"


@pytest.mark.parametrize("name", ["../other/model.onnx", "/etc/passwd", "a/b"])
def test_a_file_somewhere_else_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(LoadError, match="it must be one in the version's own folder"):
        model_file(tmp_path, configured(f'default_model_filename: "{name}"'))


def test_an_artifact_without_a_card_is_taken_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"network")
    artifact = check_artifact(tmp_path, ModelConfig(), FileReader(tmp_path))
    assert (artifact.folder, artifact.file, artifact.golden_file) == (tmp_path, tmp_path / "model.onnx", None)
    assert (artifact.card, artifact.sha256) == ({}, hashlib.sha256(b"network").hexdigest())


def test_an_artifact_whose_file_is_not_the_cards_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"network")
    (tmp_path / "golden.npz").touch()
    card, digest = tmp_path / "card.json", hashlib.sha256(b"network").hexdigest()
    card.write_text(json.dumps({"sha256": digest}), encoding="utf-8")
    assert check_artifact(tmp_path, ModelConfig(), FileReader(tmp_path)).golden_file == tmp_path / "golden.npz"
    card.write_text('{"sha256": "00"}', encoding="utf-8")
    with pytest.raises(
        LoadError, match=f"^model.onnx is not the file its card describes: sha256 {digest}, card says 00"
    ):
        check_artifact(tmp_path, ModelConfig(), FileReader(tmp_path))


# The session


def test_everything_a_configuration_asks_for_in_vain_is_told(tmp_path: Path) -> None:
    told: list[str] = []
    text = """
        parameters { key: "share_session_between_instances" value { string_value: "true" } }
        parameters { key: "session.x" value { string_value: "1" } }
        optimization { execution_accelerators {
          gpu_execution_accelerator [ { name: "tensorrt" parameters { key: "a" value: "b" } } ]
          cpu_execution_accelerator [ { name: "openvino" } ] } }
    """
    opened(tmp_path, text, warn=told.append)
    path = "optimization.execution_accelerators.gpu_execution_accelerator.tensorrt.a"
    assert told == [
        (
            "config.pbtxt has options that this server does not support: parameters.session.x, "
            "parameters.share_session_between_instances"
        ),
        f"config.pbtxt has options that this server does not support: {path}",
        f"config.pbtxt asks for execution providers that are not available: tensorrt needs a GPU; {NO_OPENVINO}",
    ]


def test_an_output_that_cannot_be_answered_is_no_obstacle_when_others_are_listed(tmp_path: Path) -> None:
    with pytest.raises(LoadError, match=r"'parts' is a seq\(tensor\(float\)\)"):
        opened(tmp_path, "", onnx_models.label_and_sequence())
    session = opened(tmp_path, 'output { name: "label" data_type: TYPE_INT64 }', onnx_models.label_and_sequence())
    assert [spec.name for spec in session.signature.outputs] == ["label"]
    x = onnx_models.rows(3)
    np.testing.assert_array_equal(session.run([x], ["label"])[0], x.argmax(axis=1))


def test_one_listed_output_of_logits_gets_its_heads(tmp_path: Path) -> None:
    session = opened(tmp_path, 'output { name: "double" }', onnx_models.two_outputs())
    assert [spec.client_name for spec in session.signature.outputs] == ["double", "softmax", "argmax"]
    assert session.signature.own_outputs == ("double",)


def test_a_listed_output_the_graph_lacks_is_told_with_all_it_has(tmp_path: Path) -> None:
    with pytest.raises(LoadError, match=r"names the output 'x', but the graph has \['double', 'total'\]"):
        opened(tmp_path, 'output [ { name: "double" }, { name: "x" } ]', onnx_models.two_outputs())


class Machine:
    """Stands in for ONNX Runtime's session on a machine with a GPU: binds what it can, refuses what it cannot.

    Attributes:
        tried: the providers of every attempt.
    """

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, *, fails: Sequence[str] = (), skips: Sequence[str] = ()
    ) -> None:
        self.tried: list[list[Provider]] = []
        self._fails = fails
        self._skips = skips
        self._session = ort.InferenceSession
        monkeypatch.setattr(ort, "InferenceSession", self._open)
        monkeypatch.setattr(ort, "get_available_providers", lambda: [TENSORRT, CUDA, CPU])

    def _open(self, model: bytes, options: Any, providers: list[Provider], enable_fallback: int) -> Any:
        assert not enable_fallback
        self.tried.append(providers)
        names = [name for name, _ in providers]
        refused = [name for name in names if name in self._fails]
        if refused:
            raise RuntimeError(f"{refused[0]} is out of order")
        session = self._session(model, options, providers=[CPU])
        session.get_providers = lambda: [name for name in names if name not in self._skips]
        return session


GPU: list[Provider] = [(CUDA, {"device_id": "1", "use_tf32": "0"}), (CPU, {})]
CAPTURING: list[Provider] = [(CUDA, {"device_id": "1", "use_tf32": "0", "enable_cuda_graph": "1"}), (CPU, {})]


def on_gpu(
    folder: Path, text: str = TENSORRT_WANTED, *, strict: bool = True, warn: Callable[[str], None] = pytest.fail
) -> Session:
    path = folder / "model.onnx"
    path.write_bytes(onnx_models.linear().SerializeToString())
    return open_session(path, configured(text), GPU, threads=1, strict=strict, warn=warn)


def test_an_accelerator_is_put_first_on_the_same_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch)
    session = on_gpu(tmp_path)
    assert machine.tried == [[(TENSORRT, {"device_id": "1"}), *GPU]]
    assert (session.provider, session.device) == (TENSORRT, "cuda:1")


@pytest.mark.parametrize("how", ["fails", "skips"])
def test_an_accelerator_that_cannot_be_loaded_is_left_out_with_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    machine, told = Machine(monkeypatch, **{how: [TENSORRT]}), list[str]()
    session = on_gpu(tmp_path, warn=told.append)
    assert machine.tried[-1] == (GPU if how == "fails" else [(TENSORRT, {"device_id": "1"}), *GPU])
    assert (session.provider, session.device) == (CUDA, "cuda:1")
    (warning,) = told
    assert warning.startswith(f"ONNX Runtime could not load {TENSORRT}, which config.pbtxt asks for: lib")
    assert "cannot open shared object file" in warning


def test_a_gpu_that_was_demanded_is_not_given_up_for_the_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch, fails=[CUDA])
    with pytest.raises(LoadError, match=f"^model.onnx cannot be run: {CUDA} is out of order"):
        on_gpu(tmp_path, "")
    assert machine.tried == [CAPTURING, GPU]


def test_a_gpu_that_was_not_demanded_is_given_up_for_the_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch, fails=[CUDA])
    session = on_gpu(tmp_path, "", strict=False)
    assert machine.tried == [CAPTURING, GPU, ON_CPU]
    assert (session.provider, session.device) == (CPU, "cpu")


# Weights in files of their own


def with_weights(folder: Path, location: str = "model.onnx.data") -> Path:
    path = folder / "model.onnx"
    onnx.save(onnx_models.linear(), path, save_as_external_data=True, location=location, size_threshold=0)
    return path


def test_weights_beside_the_network_are_loaded_and_known_by_name(tmp_path: Path) -> None:
    path = with_weights(tmp_path)
    session = open_session(path, ModelConfig(), ON_CPU, threads=1, strict=True, warn=pytest.fail)
    assert session.external == ("model.onnx.data",)
    x = onnx_models.rows(2)
    np.testing.assert_allclose(session.run([x], ["logits"])[0], onnx_models.logits_of(x))


def test_weights_that_are_missing_are_named(tmp_path: Path) -> None:
    path = with_weights(tmp_path)
    (tmp_path / "model.onnx.data").unlink()
    with pytest.raises(
        LoadError, match=r"model.onnx has weights in 'model.onnx.data', which is missing from the version's"
    ):
        open_session(path, ModelConfig(), ON_CPU, threads=1, strict=True, warn=pytest.fail)


def relocated(path: Path, elsewhere: str) -> Path:
    """The same ONNX file, saying that its weights are elsewhere."""
    model = onnx.load(path, load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = elsewhere
    path.write_bytes(model.SerializeToString())
    return path


@pytest.mark.parametrize("elsewhere", ["../model.onnx.data", "/etc/passwd"])
def test_weights_outside_the_versions_folder_are_refused(tmp_path: Path, elsewhere: str) -> None:
    path = relocated(with_weights(tmp_path), elsewhere)
    with pytest.raises(LoadError, match=f"has weights in '{elsewhere}'; they must be in the version's own folder"):
        open_session(path, ModelConfig(), ON_CPU, threads=1, strict=True, warn=pytest.fail)


@pytest.mark.parametrize("name", ["w" * 300, "folder" * 50 + "/weights", "a\0b"])
def test_weights_in_a_file_whose_name_none_can_have_are_missing(tmp_path: Path, name: str) -> None:
    path = relocated(with_weights(tmp_path), name)
    with pytest.raises(LoadError, match="which is missing from the version's folder"):
        open_session(path, ModelConfig(), ON_CPU, threads=1, strict=True, warn=pytest.fail)


def loaded(artifact: Artifact) -> Any:
    return open_session(
        artifact.file, ModelConfig(), ON_CPU, threads=1, strict=True, warn=pytest.fail, artifact=artifact
    )


def test_weights_are_compared_with_the_card(tmp_path: Path) -> None:
    path, told = with_weights(tmp_path), list[str]()
    digest = hashlib.sha256((tmp_path / "model.onnx.data").read_bytes()).hexdigest()

    def carded(card: dict[str, Any]) -> Artifact:
        return Artifact(tmp_path, path, card, hashlib.sha256(path.read_bytes()).hexdigest(), FileReader(tmp_path))

    loaded(carded({"files": {"model.onnx.data": digest}}))
    carded({"sha256": "x", "files": {"model.onnx.data": digest}}).check_weights(["model.onnx.data"], told.append)
    carded({}).check_weights(["model.onnx.data"], told.append)
    assert told == []
    carded({"sha256": "x"}).check_weights(["model.onnx.data"], told.append)
    assert told == ["the card has no sha256 of model.onnx.data, which holds weights of model.onnx"]
    with pytest.raises(
        LoadError, match=f"model.onnx.data is not the file its card describes: sha256 {digest}, card says 00"
    ):
        loaded(carded({"files": {"model.onnx.data": "00"}}))
    with pytest.raises(LoadError, match=r"card.json has files that are no object"):
        loaded(carded({"files": ["model.onnx.data"]}))


def test_what_is_served_is_what_was_checked(tmp_path: Path) -> None:
    path = with_weights(tmp_path)
    weights, digest = tmp_path / "model.onnx.data", hashlib.sha256((tmp_path / "model.onnx.data").read_bytes())
    (tmp_path / "card.json").write_text(json.dumps({"files": {weights.name: digest.hexdigest()}}))
    artifact, x = check_artifact(tmp_path, ModelConfig(), FileReader(tmp_path)), onnx_models.rows(3)
    before = loaded(artifact).run([x], ["logits"])[0]
    # Both files change after they were checked; another instance's session is opened.
    weights.write_bytes(bytes(weights.stat().st_size))
    np.testing.assert_array_equal(loaded(artifact).run([x], ["logits"])[0], before)
    path.write_bytes(onnx_models.linear().SerializeToString())
    with pytest.raises(LoadError, match=r"model.onnx changed while it was being loaded"):
        loaded(artifact)


def test_weights_that_no_card_lists_are_served_as_they_were_loaded_whatever_becomes_of_their_file(
    tmp_path: Path,
) -> None:
    weights = with_weights(tmp_path).with_name("model.onnx.data")
    session, x = loaded(check_artifact(tmp_path, ModelConfig(), FileReader(tmp_path))), onnx_models.rows(3)
    before = session.run([x], ["logits"])[0]
    with weights.open("r+b") as file:
        file.write(bytes(weights.stat().st_size))
    np.testing.assert_array_equal(session.run([x], ["logits"])[0], before)
    # To read a page of a file that is cut off would end the process.
    os.truncate(weights, 0)
    np.testing.assert_array_equal(session.run([x], ["logits"])[0], before)


@pytest.mark.parametrize("how", ["files", "folder"])
def test_a_cache_whose_files_are_links_to_blobs_is_loaded(tmp_path: Path, how: str) -> None:
    """As Hugging Face's: snapshots/<revision>/<file> is a link to ../../blobs/<digest>, and the weights are apart."""
    snapshot, blobs, version = tmp_path / "snapshots" / "abc", tmp_path / "blobs", tmp_path / "models" / "m" / "1"
    for folder in (snapshot, blobs, version.parent):
        folder.mkdir(parents=True)
    with_weights(blobs)
    for name, blob in (("model.onnx", "1111"), ("model.onnx.data", "2222")):
        (blobs / name).rename(blobs / blob)
        (snapshot / name).symlink_to(f"../../blobs/{blob}")
    if how == "folder":
        version.symlink_to(snapshot)
    else:
        version.mkdir()
        for name in ("model.onnx", "model.onnx.data"):
            (version / name).symlink_to(snapshot / name)
    x = onnx_models.rows(3)
    (logits,) = loaded(check_artifact(version, ModelConfig(), FileReader(tmp_path))).run([x], ["logits"])
    np.testing.assert_allclose(logits, onnx_models.logits_of(x), rtol=1e-5)


def test_weights_cannot_be_reached_through_a_linked_folder(tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "1").mkdir()
    path = relocated(with_weights(tmp_path / "1"), "there/secret")
    (tmp_path / "1" / "model.onnx.data").rename(tmp_path / "outside" / "secret")
    (tmp_path / "1" / "there").symlink_to(tmp_path / "outside")
    with pytest.raises(LoadError, match="has weights in 'there/secret', but 'there' is a link to another folder"):
        loaded(check_artifact(path.parent, ModelConfig(), FileReader(tmp_path)))
    # A folder of its own is no link.
    (tmp_path / "1" / "there").unlink()
    (tmp_path / "outside").rename(tmp_path / "1" / "there")
    loaded(check_artifact(path.parent, ModelConfig(), FileReader(tmp_path)))


# Labels

LABELLED = 'output { name: "logits" label_filename: "labels.txt" }'


def labels(
    folder: Path, text: str, card: dict[str, Any], model: onnx.ModelProto | None = None, warn: Any = pytest.fail
) -> Sequence[str] | None:
    session = opened(folder, text, model)
    return labels_of(card, session, label_files(folder, FileReader(folder), session.signature, configured(text), warn))


def test_the_artifacts_own_labels_win_over_a_label_file(tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_text("x\ny\nz\n", encoding="utf-8")
    named = onnx_models.linear(labels=["d", "e", "f"])
    assert labels(tmp_path, LABELLED, {"labels": ["a", "b", "c"]}) == ["a", "b", "c"]
    assert labels(tmp_path, LABELLED, {}, named) == ["d", "e", "f"]
    assert labels(tmp_path, LABELLED, {}) == ("x", "y", "z")
    assert labels(tmp_path, "", {}) is None


def test_the_labels_of_an_operator_count_where_there_are_no_others(tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_text("x\ny\nz\n", encoding="utf-8")
    model = onnx_models.learner(
        "LinearClassifier", classlabels_ints=[10, 20, 30], post_transform="SOFTMAX",
        coefficients=onnx_models.WEIGHTS.T.ravel().tolist(), intercepts=onnx_models.BIAS.tolist(),
    )  # fmt: skip
    assert labels(tmp_path, "", {}, model) == ["10", "20", "30"]
    assert labels(tmp_path, LABELLED.replace("logits", "probabilities"), {}, model) == ("x", "y", "z")
    assert labels(tmp_path, "", {"labels": ["a", "b", "c"]}, model) == ["a", "b", "c"]


def test_a_label_file_that_is_missing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LoadError, match=r"the label file labels.txt cannot be read: "):
        labels(tmp_path, LABELLED, {"labels": ["a", "b", "c"]})


def test_an_artifact_with_too_few_labels_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LoadError, match="there are 2 labels for 3 classes"):
        labels(tmp_path, "", {"labels": ["a", "b"]})
    fixed = onnx_models.fixed_batch(2)
    with pytest.raises(LoadError, match="there are 4 labels for 3 classes"):
        labels(tmp_path, "", {"labels": ["a", "b", "c", "d"]}, fixed)


def test_a_label_file_of_another_length_is_used_with_a_warning_as_triton_would(tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_text("x\ny\n", encoding="utf-8")
    told: list[str] = []
    assert labels(tmp_path, LABELLED, {}, warn=told.append) == ("x", "y")
    assert told == ["the label file of the output 'logits' has 2 labels for 3 classes"]


def test_a_line_too_many_in_a_label_file_costs_no_class_its_name(tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_text("a\nb\nc\n\n")
    told: list[str] = []
    assert labels(tmp_path, LABELLED, {}, warn=told.append) == ("a", "b", "c")
    (tmp_path / "labels.txt").write_text("a\nb\nc\nbackground\n")
    assert labels(tmp_path, LABELLED, {}, warn=told.append) == ("a", "b", "c")
    assert told[-1] == "the label file of the output 'logits' has 4 labels for 3 classes"


def test_of_several_label_files_each_is_its_outputs_own_and_none_the_models(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a\nb\nc\nd\ntoo many\n", encoding="utf-8")
    (tmp_path / "b.txt").write_text("b\n", encoding="utf-8")
    text = 'output [ { name: "double" label_filename: "a.txt" }, { name: "total" label_filename: "b.txt" } ]'
    told: list[str] = []
    signature = opened(tmp_path, text, onnx_models.two_outputs()).signature
    named = label_files(tmp_path, FileReader(tmp_path), signature, configured(text), told.append)
    assert named == {"double": ("a", "b", "c", "d"), "total": ("b",)}
    assert told == ["the label file of the output 'double' has 5 labels for 4 classes"]
    assert labels(tmp_path, text, {}, onnx_models.two_outputs(), told.append) is None


def test_a_network_of_any_number_of_classes_takes_any_number_of_labels(tmp_path: Path) -> None:
    model = onnx_models.passed_through(["rows", "classes"])
    assert labels(tmp_path, "", {"labels": ["a"]}, model) == ["a"]


# What the batcher runs


def test_a_row_is_kept_for_the_device_probe_when_it_wants_one(tmp_path: Path) -> None:
    recent = RecentRow()
    run = instance_run(opened(tmp_path, model=onnx_models.two_outputs()), Predictions(), Tap(), recent)
    x = onnx_models.rows(3)
    run([x], ("total",))
    assert recent.row is not None
    np.testing.assert_array_equal(recent.row[0], x[:1])
    assert not np.shares_memory(recent.row[0], x)
    run([x + 1], ("total",))
    np.testing.assert_array_equal(recent.row[0], x[:1])
    recent.wanted = True
    run([x + 1], ("total",))
    np.testing.assert_array_equal(recent.row[0], x[:1] + 1)


def test_a_run_without_heads_and_reshaped_outputs_is_the_sessions_own(tmp_path: Path) -> None:
    session = opened(tmp_path, model=onnx_models.two_outputs())
    x = onnx_models.rows(3)
    outputs, afterwards = instance_run(session, Predictions(), Tap(), RecentRow())([x], ("double", "total"))
    for got, want in zip(outputs, session.run([x], ("double", "total")), strict=True):
        np.testing.assert_array_equal(got, want)
    assert afterwards is None


def test_outputs_come_in_the_shape_clients_see(tmp_path: Path) -> None:
    text = """
        output [ { name: "double" dims: [ 2, 2 ] reshape { shape: [ 4 ] } }, { name: "total" dims: 1 reshape { shape: [ ] } } ]
    """
    session = opened(tmp_path, text, onnx_models.two_outputs())
    x = onnx_models.rows(3)
    (total, double), _ = instance_run(session, Predictions(), Tap(), RecentRow())([x], ("total", "double"))
    np.testing.assert_array_equal(total, x.sum(axis=1).reshape(3, 1))
    np.testing.assert_array_equal(double, (x + x).reshape(3, 2, 2))
    scalar = opened(tmp_path, 'output { name: "total" dims: 1 }', onnx_models.total())
    (total,), _ = instance_run(scalar, Predictions(), Tap(), RecentRow())([x], ("total",))
    assert total.shape == (1,)


def test_predictions_are_counted_for_rows_and_not_for_places(tmp_path: Path) -> None:
    predictions = Predictions()
    _, count = instance_run(opened(tmp_path), predictions, Tap(), RecentRow())([onnx_models.rows(5)], ("logits",))
    # Not within the run, whose time is told.
    assert predictions.counts()[0] == {}
    assert count is not None
    count()
    assert sum(predictions.counts()[0].values()) == 5
    session = opened(tmp_path, model=onnx_models.dense())
    _, count = instance_run(session, Predictions(), Tap(), RecentRow())(
        [onnx_models.rows(5, 2, 3, 3)], ("frostline_softmax",)
    )
    assert count is None


# Whether requests share a run


def load_version(
    folder: Path, model: onnx.ModelProto, config: str = "", **options: Any
) -> tuple[LoadedModel, list[str]]:
    """A loaded version without a golden sample, and the warnings."""
    told: list[str] = []
    version = onnx_models.write_artifact(folder, "m", 1, model, golden=False, labels=None)
    loader = Loader(ON_CPU, strict=True, threads=1, batching=batching(max_batch_size=8), **options)
    served = loader.load(version, "m", configured(config), told.append)
    assert served.batcher.close(TIMEOUT_S)
    return served, told


def test_rows_that_are_proved_independent_share_batches(tmp_path: Path) -> None:
    served, told = load_version(tmp_path, onnx_models.linear())
    assert (served.session.signature.batched, served.batching.max_batch_size, told) == (True, 8, [])


def test_rows_that_depend_on_each_other_are_served_whole_with_one_warning(tmp_path: Path) -> None:
    served, (warning,) = load_version(tmp_path, onnx_models.averaging(), "instance_group { count: 2 kind: KIND_CPU }")
    assert [session.signature.batched for session in served.sessions] == [False, False]
    assert served.batching.max_batch_size == 1
    assert [spec.shape for spec in served.session.signature.inputs] == [(None, 4)]
    assert warning.startswith("each request runs alone, as with max_batch_size: 0, because output 'logits' of a row")


def test_batches_that_are_demanded_of_rows_that_depend_on_each_other_are_refused(tmp_path: Path) -> None:
    with pytest.raises(LoadError) as caught:
        load_version(tmp_path, onnx_models.averaging(), "max_batch_size: 4")
    assert str(caught.value).startswith(
        "config.pbtxt sets max_batch_size 4, but it is not proved that rows of several requests may share a run: output 'logits'"
    )
    assert str(caught.value).endswith(", or 1 to take one row at a time")


def unproved() -> onnx.ModelProto:
    """Input `ids` [rows, 1] to `found` [rows, 1], from a table of 1,000 to 1,001 that no generated row hits."""
    nodes = [
        onnx.helper.make_node("Sub", ["ids", "first"], ["places"]),
        onnx.helper.make_node("Gather", ["table", "places"], ["found"]),
    ]
    tensor = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        nodes,
        "g",
        [tensor("ids", onnx.TensorProto.INT64, ["rows", 1])],
        [tensor("found", onnx.TensorProto.FLOAT, ["rows", 1])],
        [
            onnx.numpy_helper.from_array(np.array(1000, np.int64), "first"),
            onnx.numpy_helper.from_array(np.array([3, 5], np.float32), "table"),
        ],
    )
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=8)


def test_without_a_row_that_could_prove_it_each_request_runs_alone(tmp_path: Path) -> None:
    served, told = load_version(tmp_path, unproved())
    assert not served.session.signature.batched
    assert told[0].startswith(
        "each request runs alone, as with max_batch_size: 0, because generated values were refused"
    )
    assert told[0].endswith("; different rows in a golden.npz or a model_warmup may prove that they may share one")
    assert told[1].startswith("no row is known that the network answers")
    assert served.probe_row is None


def test_batches_that_are_demanded_without_a_proof_are_refused_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(LoadError) as caught:
        load_version(tmp_path, unproved(), "max_batch_size: 4")
    assert "it is not proved that rows of several requests may share a run: generated values were refused" in str(
        caught.value
    )
    assert str(caught.value).endswith(
        "or 1 to take one row at a time; different rows in a golden.npz or a model_warmup may prove that they may share one"
    )


@pytest.mark.parametrize("model", [onnx_models.averaging, unproved], ids=["dependent", "unproved"])
def test_where_one_row_is_a_request_nothing_needs_to_be_proved(
    tmp_path: Path, model: Callable[[], onnx.ModelProto]
) -> None:
    served, told = load_version(tmp_path, model(), "max_batch_size: 1")
    assert served.session.signature.batched
    assert served.batching.max_batch_size == 1
    assert not [warning for warning in told if "alone" in warning]


def test_a_batch_of_one_needs_outputs_of_one_row(tmp_path: Path) -> None:
    nodes = [onnx.helper.make_node("Transpose", ["x"], ["y"], perm=[1, 0])]
    tensor = onnx.helper.make_tensor_value_info
    x, y = (tensor(name, onnx.TensorProto.FLOAT, ["n", "m"]) for name in "xy")
    made = onnx.helper.make_graph(nodes, "g", [x], [y])
    model = onnx.helper.make_model(made, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=8)
    with pytest.raises(LoadError, match=r"output 'y' has shape \[\d+, 1\] for one row"):
        load_version(tmp_path, model, "max_batch_size: 1")


def test_warmup_requests_prove_what_generated_rows_cannot(tmp_path: Path) -> None:
    def request(name: str) -> str:
        tensor = f'data_type: TYPE_INT64 dims: 1 input_data_file: "{name}"'
        return f'model_warmup {{ name: "{name}" inputs {{ key: "ids" value {{ {tensor} }} }} }}'

    (tmp_path / "m" / "warmup").mkdir(parents=True)
    for name, number in (("a", 1000), ("b", 1001)):
        (tmp_path / "m" / "warmup" / name).write_bytes(np.array([number], "<i8").tobytes())
    served, told = load_version(tmp_path, unproved(), request("a") + request("b"))
    assert (served.session.signature.batched, told) == (True, [])
    assert served.probe_row is not None
    assert served.probe_row[0].tolist() == [[1000]]


def test_a_large_batch_that_changes_a_rows_answer_is_found_and_served_whole(tmp_path: Path) -> None:
    served, (warning,) = load_version(tmp_path, onnx_models.sees_large_batches())
    assert not served.session.signature.batched
    assert "output 'y' of a row among 8 is not the one that the row gets alone" in warning
    with pytest.raises(LoadError, match="of a row among 8"):
        load_version(tmp_path / "demanded", onnx_models.sees_large_batches(), "max_batch_size: 8")


def test_the_largest_batch_is_what_memory_allows(tmp_path: Path) -> None:
    # 64 MiB a row on the way to a number.
    served, (warning,) = load_version(tmp_path, onnx_models.memory_hungry(1 << 24), max_run_bytes=300 << 20)
    assert served.batching.max_batch_size in (2, 4)
    assert warning.startswith(f"batches have at most {served.batching.max_batch_size} rows, not 8: ")
    rows = served.batching.max_batch_size + 1
    with pytest.raises(InvalidInput, match=f"batch-size must be <= {rows - 1}"):
        served.codec.decode_infer(
            inference_pb2.ModelInferRequest(
                inputs=[{"name": "input", "datatype": "FP32", "shape": [rows, 1]}], raw_input_contents=[bytes(4 * rows)]
            ),
            Regions(enabled=False, max_tensor_bytes=1),
        )


def test_what_is_preferred_beyond_what_memory_allows_is_not_preferred_any_more(tmp_path: Path) -> None:
    text = "max_batch_size: 8 dynamic_batching { preferred_batch_size: [1, 8] }"
    served, _ = load_version(tmp_path, onnx_models.memory_hungry(1 << 24), text, max_run_bytes=300 << 20)
    assert served.batching.max_batch_size in (2, 4)
    assert served.batching.preferred_sizes == (1,)


def test_a_model_of_which_two_rows_take_too_much_memory_is_served_alone(tmp_path: Path) -> None:
    served, (warning,) = load_version(tmp_path, onnx_models.memory_hungry(1 << 24), max_run_bytes=32 << 20)
    assert not served.session.signature.batched
    assert "2 rows would take more than max_run_bytes, 32 MiB" in warning


def test_without_an_arena_memory_of_large_batches_is_not_given_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("frostline_server.model.warmup._SHRINK_BYTES", -1)
    without = 'parameters { key: "enable_mem_arena" value { string_value: "0" } }'
    served, told = load_version(tmp_path, onnx_models.linear(), without)
    assert (served.batching.max_batch_size, told) == (8, [])


def test_what_a_generated_row_costs_is_no_measure_of_rows_of_any_size(tmp_path: Path) -> None:
    served, _ = load_version(tmp_path, onnx_models.dynamic_inner(), slo_s=10.0)
    fixed, _ = load_version(tmp_path / "fixed", onnx_models.linear(), slo_s=10.0)
    assert served.admission is not None
    assert fixed.admission is not None
    assert (served.admission.slowness, fixed.admission.slowness) == (0.0, 1.0)
