"""One version's folder: its session as the configuration wants it, its weights, its labels, its warm-up."""

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from google.protobuf import text_format

from frostline.pb.model_config_pb2 import ModelConfig
from frostline_server.errors import LoadError
from frostline_server.model.artifact import Artifact, check_artifact, model_file
from frostline_server.model.instance import instance_run
from frostline_server.model.loader import labels_of, open_session
from frostline_server.model.shadow import Tap
from frostline_server.model.stats import ModelStats
from frostline_server.model.warmup import samples_of, warm
from frostline_server.model_config.accelerators import TENSORRT
from frostline_server.runtime.devices import CPU, CUDA, Provider
from frostline_server.runtime.session import Session
from tests.support import onnx_models
from tests.support.puppet import batching

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
    artifact = check_artifact(tmp_path, ModelConfig())
    assert (artifact.folder, artifact.file, artifact.golden_file) == (tmp_path, tmp_path / "model.onnx", None)
    assert (artifact.card, artifact.sha256) == ({}, hashlib.sha256(b"network").hexdigest())


def test_an_artifact_whose_file_is_not_the_cards_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"network")
    (tmp_path / "golden.npz").touch()
    card, digest = tmp_path / "card.json", hashlib.sha256(b"network").hexdigest()
    card.write_text(json.dumps({"sha256": digest}), encoding="utf-8")
    assert check_artifact(tmp_path, ModelConfig()).golden_file == tmp_path / "golden.npz"
    card.write_text('{"sha256": "00"}', encoding="utf-8")
    with pytest.raises(
        LoadError, match=f"^model.onnx is not the file its card describes: sha256 {digest}, card says 00"
    ):
        check_artifact(tmp_path, ModelConfig())


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
        "config.pbtxt has options that this server does not support: parameters.share_session_between_instances",
        "config.pbtxt sets session.x; the server passes these on to ONNX Runtime, which ignores entries that it does not know",
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
    assert [spec.name for spec in session.signature.outputs] == ["double", "softmax", "argmax"]
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


def loaded(artifact: Artifact) -> Any:
    return open_session(
        artifact.file, ModelConfig(), ON_CPU, threads=1, strict=True, warn=pytest.fail, artifact=artifact
    )


def test_weights_are_compared_with_the_card(tmp_path: Path) -> None:
    path, told = with_weights(tmp_path), list[str]()
    digest = hashlib.sha256((tmp_path / "model.onnx.data").read_bytes()).hexdigest()

    def carded(card: dict[str, Any]) -> Artifact:
        return Artifact(tmp_path, path, card, hashlib.sha256(path.read_bytes()).hexdigest())

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
    artifact, x = check_artifact(tmp_path, ModelConfig()), onnx_models.rows(3)
    before = loaded(artifact).run([x], ["logits"])[0]
    # Both files change after they were checked; another instance's session is opened.
    weights.write_bytes(bytes(weights.stat().st_size))
    np.testing.assert_array_equal(loaded(artifact).run([x], ["logits"])[0], before)
    path.write_bytes(onnx_models.linear().SerializeToString())
    with pytest.raises(LoadError, match=r"model.onnx changed while it was being loaded"):
        loaded(artifact)


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
    (logits,) = loaded(check_artifact(version, ModelConfig())).run([x], ["logits"])
    np.testing.assert_allclose(logits, onnx_models.logits_of(x), rtol=1e-5)


def test_weights_cannot_be_reached_through_a_linked_folder(tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "1").mkdir()
    path = relocated(with_weights(tmp_path / "1"), "there/secret")
    (tmp_path / "1" / "model.onnx.data").rename(tmp_path / "outside" / "secret")
    (tmp_path / "1" / "there").symlink_to(tmp_path / "outside")
    with pytest.raises(LoadError, match="has weights in 'there/secret', but 'there' is a link to another folder"):
        loaded(check_artifact(path.parent, ModelConfig()))
    # A folder of its own is no link.
    (tmp_path / "1" / "there").unlink()
    (tmp_path / "outside").rename(tmp_path / "1" / "there")
    loaded(check_artifact(path.parent, ModelConfig()))


# Labels

LABELLED = 'output { name: "logits" label_filename: "labels.txt" }'


def labels(
    folder: Path, text: str, card: dict[str, Any], model: onnx.ModelProto | None = None, warn: Any = pytest.fail
) -> Sequence[str] | None:
    session = opened(folder, text, model)
    return labels_of(folder, card, session, configured(text), warn)


def test_the_artifacts_own_labels_win_over_a_label_file(tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_text("x\ny\nz\n", encoding="utf-8")
    named = onnx_models.linear(labels=["d", "e", "f"])
    assert labels(tmp_path, LABELLED, {"labels": ["a", "b", "c"]}) == ["a", "b", "c"]
    assert labels(tmp_path, LABELLED, {}, named) == ["d", "e", "f"]
    assert labels(tmp_path, LABELLED, {}) == ("x", "y", "z")
    assert labels(tmp_path, "", {}) is None


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


def test_of_several_label_files_the_first_is_used_with_a_warning(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a\n", encoding="utf-8")
    (tmp_path / "b.txt").write_text("b\n", encoding="utf-8")
    text = 'output [ { name: "double" label_filename: "a.txt" }, { name: "total" label_filename: "b.txt" } ]'
    told: list[str] = []
    assert labels(tmp_path, text, {}, onnx_models.two_outputs(), told.append) == ("a",)
    assert told == ["config.pbtxt has several label files; only the one of the output 'double' is used"]


def test_a_network_of_any_number_of_classes_takes_any_number_of_labels(tmp_path: Path) -> None:
    model = onnx_models.passed_through(["rows", "classes"])
    assert labels(tmp_path, "", {"labels": ["a"]}, model) == ["a"]


# Warm-up


def test_a_sample_of_the_configuration_warms_a_network_whose_rows_are_of_any_size(tmp_path: Path) -> None:
    config = 'model_warmup { name: "w" inputs { key: "ids" value { data_type: TYPE_INT64 dims: 3 zero_data: true } } }'
    session = opened(tmp_path, config, onnx_models.tokens())
    assert not warm(session, batching(max_batch_size=4), None, [])
    assert warm(
        session, batching(max_batch_size=4), None, samples_of(configured(config), session.signature, 4, tmp_path)
    )


def test_a_graph_that_is_wrong_about_its_output_is_refused_unless_the_output_is_declared(tmp_path: Path) -> None:
    model = onnx_models.unranked()
    model.graph.output[0].CopyFrom(onnx.helper.make_tensor_value_info("output", onnx.TensorProto.FLOAT, [None, 5]))
    # A shape of zeros copies the input's.
    sample = """
        max_batch_size: 0
        model_warmup { name: "w"
          inputs { key: "input" value { data_type: TYPE_FP32 dims: [ 3, 4 ] zero_data: true } }
          inputs { key: "shape" value { data_type: TYPE_INT64 dims: 2 zero_data: true } } }
    """

    def warmed(text: str) -> bool:
        session = opened(tmp_path, text, model)
        return warm(
            session, batching(max_batch_size=4), None, samples_of(configured(text), session.signature, 4, tmp_path)
        )

    with pytest.raises(
        LoadError, match=r"'output' has shape \[3, 4\] where .* says \[-1, 5\]; declare its dims in config.pbtxt"
    ):
        warmed(sample)
    assert warmed(sample + 'output { name: "output" dims: [ -1, -1 ] }')


# What the batcher runs


def test_a_run_without_reshaped_outputs_has_nothing_between_it_and_the_session(tmp_path: Path) -> None:
    session = opened(tmp_path, model=onnx_models.two_outputs())
    assert instance_run(session, ModelStats(), Tap()) == session.run


def test_outputs_come_in_the_shape_clients_see(tmp_path: Path) -> None:
    text = """
        output [ { name: "double" dims: [ 2, 2 ] reshape { shape: [ 4 ] } }, { name: "total" dims: 1 reshape { shape: [ ] } } ]
    """
    session = opened(tmp_path, text, onnx_models.two_outputs())
    x = onnx_models.rows(3)
    total, double = instance_run(session, ModelStats(), Tap())([x], ("total", "double"))
    np.testing.assert_array_equal(total, x.sum(axis=1).reshape(3, 1))
    np.testing.assert_array_equal(double, (x + x).reshape(3, 2, 2))
    scalar = opened(tmp_path, 'output { name: "total" dims: 1 }', onnx_models.total())
    (total,) = instance_run(scalar, ModelStats(), Tap())([x], ("total",))
    assert total.shape == (1,)


def test_predictions_are_counted_for_rows_and_not_for_places(tmp_path: Path) -> None:
    stats = ModelStats()
    instance_run(opened(tmp_path), stats, Tap())([onnx_models.rows(5)], ("logits",))
    assert sum(stats.predictions()[0].values()) == 5
    stats = ModelStats()
    session = opened(tmp_path, model=onnx_models.dense())
    instance_run(session, stats, Tap())([onnx_models.rows(5, 2, 3, 3)], ("softmax",))
    assert stats.predictions()[0] == {}
