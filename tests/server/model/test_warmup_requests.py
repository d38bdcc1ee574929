"""The requests of `model_warmup`: what they consist of, that they run, and which are refused."""

import os
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import pytest
from google.protobuf import text_format

from frostline.pb.model_config_pb2 import ModelConfig
from frostline_server.errors import LoadError
from frostline_server.model.warmup_requests import WarmupRequest, warmup_requests
from frostline_server.model_config.tensor_config import agreed
from frostline_server.regular_files import FileReader
from frostline_server.runtime.devices import CPU
from frostline_server.runtime.session import Session
from frostline_server.runtime.session_factory import load_session
from tests.support import onnx_models


def session_of(folder: Path, model: onnx.ModelProto, config: ModelConfig) -> Session:
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    return load_session(path, [(CPU, {})], threads=1, strict=True, agree=partial(agreed, config=config))


def requests(folder: Path, text: str, model: onnx.ModelProto | None = None) -> tuple[Session, list[WarmupRequest]]:
    config = text_format.Parse(text, ModelConfig())
    session = session_of(folder, onnx_models.linear() if model is None else model, config)
    return session, warmup_requests(config, session.signature, 8, folder, FileReader(folder))


def refusal(folder: Path, text: str, model: onnx.ModelProto | None = None) -> str:
    with pytest.raises(LoadError) as caught:
        requests(folder, text, model)
    return str(caught.value)


def warmup(inner: str, *, data_type: str = "TYPE_FP32", dims: str = "4", more: str = "batch_size: 1") -> str:
    """A `model_warmup` of one sample with the one input `input`."""
    return (
        f'model_warmup [ {{ name: "w" {more} inputs {{ key: "input" value: {{ data_type: {data_type} dims: [ {dims} ] {inner} }} }} '
        "} ]"
    )


def test_a_request_is_not_larger_than_memory(tmp_path: Path) -> None:
    huge = warmup("zero_data: true", dims="999999999999, 4")
    assert refusal(tmp_path, huge, onnx_models.dynamic_inner()) == (
        "model_warmup 'w': input 'input' has 15999999999984 bytes; at most 1073741824 are possible"
    )
    many = warmup("zero_data: true", dims="50000000, 4", more="batch_size: 2")
    assert refusal(tmp_path, many, onnx_models.dynamic_inner()).endswith(
        "has 1600000000 bytes; at most 1073741824 are possible"
    )


def test_zeros_are_zeros_and_strings_empty(tmp_path: Path) -> None:
    _, (request,) = requests(tmp_path, warmup("zero_data: true"))
    np.testing.assert_array_equal(request.row[0], np.zeros((1, 4), np.float32))
    text = warmup("zero_data: true", data_type="TYPE_STRING", dims="2")
    _, (request,) = requests(tmp_path, text, onnx_models.strings())
    assert request.row[0].tolist() == [["", ""]]


def test_random_numbers_are_the_same_at_every_load_and_random_strings_empty(tmp_path: Path) -> None:
    _, (first,) = requests(tmp_path, warmup("random_data: true"))
    _, (second,) = requests(tmp_path, warmup("random_data: true"))
    assert first.row[0].dtype == np.float32
    assert 0 < first.row[0].min() < first.row[0].max() < 1
    np.testing.assert_array_equal(first.row[0], second.row[0])
    text = warmup("random_data: true", data_type="TYPE_STRING", dims="2")
    _, (request,) = requests(tmp_path, text, onnx_models.strings())
    assert request.row[0].tolist() == [["", ""]]


def test_random_whole_numbers_are_places_every_table_has(tmp_path: Path) -> None:
    text = warmup("random_data: true", data_type="TYPE_INT64", dims="50").replace('"input"', '"ids"')
    session, (request,) = requests(tmp_path, text, onnx_models.tokens())
    assert set(request.row[0].ravel().tolist()) == {0, 1}
    request.run(session)


def test_a_file_of_elements_is_read_from_the_folder_warmup(tmp_path: Path) -> None:
    (tmp_path / "warmup").mkdir()
    (tmp_path / "warmup" / "row.bin").write_bytes(np.arange(4, dtype="<f4").tobytes())
    _, (request,) = requests(tmp_path, warmup('input_data_file: "row.bin"'))
    np.testing.assert_array_equal(request.row[0], [[0, 1, 2, 3]])


def test_a_file_of_strings_has_a_length_before_each(tmp_path: Path) -> None:
    (tmp_path / "warmup").mkdir()
    (tmp_path / "warmup" / "words.bin").write_bytes(b"\x02\0\0\0ab\0\0\0\0")
    text = warmup('input_data_file: "words.bin"', data_type="TYPE_STRING", dims="2")
    session, (request,) = requests(tmp_path, text, onnx_models.strings())
    assert request.row[0].tolist() == [["ab", ""]]
    request.run(session)


class Counting:
    """A session that counts its runs."""

    def __init__(self, session: Session) -> None:
        self.signature = session.signature
        self.shapes: list[tuple[int, ...]] = []

    def run(self, inputs: list[np.ndarray], outputs: list[str]) -> None:
        self.shapes.append(inputs[0].shape)


def test_a_request_is_run_as_often_and_with_as_many_rows_as_it_says(tmp_path: Path) -> None:
    text = warmup("zero_data: true", more="batch_size: 3 count: 2")
    session, (request,) = requests(tmp_path, text)
    counting = Counting(session)
    request.run(counting)  # type: ignore[arg-type]  # all of a session that a request needs
    assert counting.shapes == [(3, 4), (3, 4)]


def test_a_request_for_a_network_without_a_batch_axis_has_its_whole_shape(tmp_path: Path) -> None:
    for more in ("", "batch_size: 0", "batch_size: 1"):
        session, (request,) = requests(tmp_path, warmup("zero_data: true", more=more), onnx_models.no_batch_axis())
        assert request.row[0].shape == (4,)
        request.run(session)


def test_a_request_has_the_shape_clients_send_and_the_network_gets_its_own(tmp_path: Path) -> None:
    text = 'input { name: "input" dims: [ 2, 2 ] reshape { shape: [ 4 ] } } ' + warmup("zero_data: true", dims="2, 2")
    session, (request,) = requests(tmp_path, text)
    assert request.row[0].shape == (1, 4)
    request.run(session)


def test_several_inputs_are_taken_in_graph_order(tmp_path: Path) -> None:
    text = """
        model_warmup { name: "w" batch_size: 2
          inputs: { key: "right" value: { data_type: TYPE_FP32 dims: [ 2, 2 ] zero_data: true } }
          inputs: { key: "left" value: { data_type: TYPE_FP32 dims: [ 4 ] random_data: true } } }
    """
    session, (request,) = requests(tmp_path, text, onnx_models.two_inputs())
    assert [array.shape for array in request.row] == [(1, 4), (1, 2, 2)]
    request.run(session)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (warmup("zero_data: true", more="batch_size: 9"), "model_warmup 'w' has batch_size 9; at most 8 is possible"),
        (warmup("zero_data: true", more="count: 10001"), "model_warmup 'w' has count 10001; at most 10000 is possible"),
        (warmup("zero_data: true", more="count: 6000") * 2, "config.pbtxt asks for 12000 runs with model_warmup; at most 10000 are possible"),
        ('model_warmup { name: "w" }', "model_warmup 'w' has the inputs []; the network takes ['input']"),
        (warmup("zero_data: true").replace('"input"', '"x"'), "model_warmup 'w' has the inputs ['x']; the network takes ['input']"),
        (warmup("zero_data: true", data_type="TYPE_FP16"), "model_warmup 'w': input 'input' is TYPE_FP16; the network takes TYPE_FP32"),
        (warmup("zero_data: true", data_type="99"), "model_warmup 'w': input 'input' is 99; the network takes TYPE_FP32"),
        (warmup("zero_data: true", dims="1, 4"), "model_warmup 'w': input 'input' has dims [1, 4]; expected [4], each of a certain size"),
        (warmup("zero_data: true", dims="-1"), "model_warmup 'w': input 'input' has dims [-1]; expected [4], each of a certain size"),
        (warmup(""), "model_warmup 'w': input 'input' says not where its elements come from: zero_data, random_data or input_data_file"),
        (warmup('input_data_file: "none.bin"'), "model_warmup 'w': input 'input': warmup/none.bin cannot be read: No such file or directory"),
        (warmup('input_data_file: "../model.onnx"'), "model_warmup 'w': input 'input' names the file '../model.onnx'; it must be in the model's folder warmup"),
        (warmup('input_data_file: "long.bin"'), "model_warmup 'w': input 'input': warmup/long.bin has 1099511627776 bytes; expected 16 for one row"),
        (warmup('input_data_file: "pipe.bin"'), "model_warmup 'w': input 'input': warmup/pipe.bin cannot be read: Not a regular file"),
        (warmup('input_data_file: "short.bin"'), "model_warmup 'w': input 'input': warmup/short.bin has 3 bytes; expected 16 for one row"),
    ],
)  # fmt: skip
def test_a_request_that_does_not_fit_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "warmup").mkdir()
    (tmp_path / "warmup" / "short.bin").write_bytes(b"abc")
    (tmp_path / "warmup" / "long.bin").touch()
    os.truncate(tmp_path / "warmup" / "long.bin", 1 << 40)
    os.mkfifo(tmp_path / "warmup" / "pipe.bin")
    assert refusal(tmp_path, text) == message


def test_a_file_of_strings_that_is_cut_off_is_refused(tmp_path: Path) -> None:
    (tmp_path / "warmup").mkdir()
    (tmp_path / "warmup" / "cut.bin").write_bytes(b"\x09\0\0\0ab")
    text = warmup('input_data_file: "cut.bin"', data_type="TYPE_STRING", dims="2")
    assert "warmup/cut.bin: input byte size mismatch" in refusal(tmp_path, text, onnx_models.strings())


def test_a_request_the_network_fails_on_is_refused(tmp_path: Path) -> None:
    (tmp_path / "warmup").mkdir()
    (tmp_path / "warmup" / "ids.bin").write_bytes(np.array([99], "<i8").tobytes())
    text = warmup('input_data_file: "ids.bin"', data_type="TYPE_INT64", dims="1").replace('"input"', '"ids"')
    session, (request,) = requests(tmp_path, text, onnx_models.tokens())
    with pytest.raises(
        LoadError, match=r"^model_warmup 'w': warm-up with 1 rows failed: .*indices element out of data bounds"
    ):
        request.run(session)


def test_a_row_that_no_memory_holds_is_refused_before_it_is_made(tmp_path: Path) -> None:
    text = warmup("zero_data: true", dims="1099511627776, 4")
    model = onnx_models.dynamic_inner()
    assert refusal(tmp_path, text, model).endswith("has 17592186044416 bytes; at most 1073741824 are possible")


def test_a_file_of_elements_that_is_a_link_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "m"
    (folder / "warmup").mkdir(parents=True)
    (tmp_path / "secret").write_bytes(bytes(16))
    (folder / "warmup" / "x.bin").symlink_to("../../secret")
    assert "outside the models folder" in refusal(folder, warmup('input_data_file: "x.bin"'))
