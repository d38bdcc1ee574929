"""Whether what is served agrees with what was trained."""

import io
import re
import resource
import struct
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from frostline_server.errors import LoadError
from frostline_server.regular_files import FileReader
from frostline_server.runtime.golden import Golden, compare, compare_classes, read_golden
from tests.support.signatures import CLASSIFIER

LOGITS = np.array([[0.0, 1.0, 0.9], [2.0, 0.0, -1.0]], np.float32)


def golden(**tolerances: float) -> Golden:
    return Golden({}, LOGITS, tolerances.get("rtol", 0.0), tolerances.get("atol", 0.0))


def test_the_best_classes_pass() -> None:
    compare_classes(LOGITS.argmax(axis=1), LOGITS, golden(), 0, 2)


@pytest.mark.parametrize("tolerances", [{"atol": 0.06}, {"rtol": 0.06}])
def test_a_class_as_good_within_the_tolerance_of_both_logits_passes(tolerances: dict[str, float]) -> None:
    compare_classes(np.array([2, 0]), LOGITS, golden(**tolerances), 0, 2)


@pytest.mark.parametrize(
    ("classes", "row"), [([2, 0], 0), ([1, 1], 1), ([1, -1], 1), ([3, 0], 0)], ids=["near", "far", "below", "above"]
)
def test_another_class_is_found_with_its_row(classes: list[int], row: int) -> None:
    with pytest.raises(LoadError, match=rf"the class differs from PyTorch's at row {row} \(batch of 2\); 1 rows"):
        compare_classes(np.array(classes), LOGITS, golden(atol=0.01), 0, 2)


def test_rows_are_numbered_within_the_sample_however_often_it_is_repeated() -> None:
    with pytest.raises(LoadError, match="at row 1 "):
        compare_classes(np.array([1, 2]), LOGITS, golden(), 4, 2)


def test_a_map_of_classes_is_compared_at_every_place() -> None:
    logits = np.moveaxis(LOGITS.reshape(1, 2, 1, 3), 3, 1)
    sample: Any = Golden({}, logits, 0.0, 0.0)
    compare_classes(logits.argmax(axis=1), logits, sample, 0, 1)
    with pytest.raises(LoadError, match="at row 0 "):
        compare_classes(np.array([[[1], [2]]]), logits, sample, 0, 1)


@pytest.mark.parametrize("shape", [(2,), (2, 0)])
def test_logits_that_tell_no_classes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(LoadError, match=r"classes have shape \[2\] for logits \["):
        compare_classes(np.zeros(2, np.int64), np.zeros(shape), golden(), 0, 2)


def test_a_member_that_is_no_array_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "golden.npz", logits=LOGITS, rtol=0.0, atol=0.0)
    with zipfile.ZipFile(tmp_path / "golden.npz", "a") as archive:
        archive.writestr("input.npy", b"no array")
    with pytest.raises(LoadError, match=r"^golden check failed: golden\.npz "):
        read_golden(tmp_path / "golden.npz", CLASSIFIER, FileReader(tmp_path))


def test_classes_of_another_shape_are_refused() -> None:
    with pytest.raises(LoadError, match=r"classes have shape \[1\] for logits \[2, 3\]"):
        compare_classes(np.array([1]), LOGITS, golden(), 0, 2)


# The file


def npy(array: Any, *, shape: tuple[int, ...] | None = None, descr: str = "") -> bytes:
    """An array as numpy writes it, with another shape or type in its header if so given."""
    array, header = np.asarray(array), io.BytesIO()
    fields = {
        "descr": descr or array.dtype.str,
        "fortran_order": False,
        "shape": array.shape if shape is None else shape,
    }
    np.lib.format.write_array_header_1_0(header, fields)
    return header.getvalue() + bytes(array.tobytes())


def sample(folder: Path, **changed: bytes) -> Path:
    """A sample of two rows of `CLASSIFIER`, with some members replaced."""
    members = {"input": npy(np.ones((2, 4), np.float32)), "logits": npy(LOGITS), "rtol": npy(0.0), "atol": npy(0.0)}
    with zipfile.ZipFile(folder / "golden.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in {**members, **changed}.items():
            archive.writestr(f"{name}.npy", content)
    return folder / "golden.npz"


def refusal(path: Path) -> str:
    with pytest.raises(LoadError) as caught:
        read_golden(path, CLASSIFIER, FileReader(path.parent))
    return str(caught.value).removeprefix("golden check failed: golden.npz ")


def test_a_sample_is_read_packed_and_unpacked(tmp_path: Path) -> None:
    read = read_golden(sample(tmp_path), CLASSIFIER, FileReader(tmp_path))
    np.testing.assert_array_equal(read.logits, LOGITS)
    np.savez(tmp_path / "golden.npz", input=np.ones((2, 4), np.float32), logits=LOGITS, rtol=0.0, atol=0.0)
    np.testing.assert_array_equal(read_golden(tmp_path / "golden.npz", CLASSIFIER, FileReader(tmp_path)).logits, LOGITS)


def test_a_sample_of_several_outputs_has_each_under_its_name(tmp_path: Path) -> None:
    several = replace(CLASSIFIER, own_outputs=("logits", "rank"), heads=None)
    rank = np.array([1, 0])
    members: dict[str, Any] = {"input": np.ones((2, 4), np.float32), "rtol": 0.0, "atol": 0.0}
    outputs: dict[str, Any] = {"output.logits": LOGITS, "output.rank": rank}
    np.savez(tmp_path / "golden.npz", **members, **outputs)
    read = read_golden(tmp_path / "golden.npz", several, FileReader(tmp_path))
    np.testing.assert_array_equal(read.logits, LOGITS)
    assert list(read.further) == ["rank"]
    np.testing.assert_array_equal(read.further["rank"], rank)
    for odd, fact in (({}, "lacks "), ({"output.rank": rank[:1]}, "has output rank [1] beside logits [2, 3]"),
                      ({"output.rank": np.array([np.nan, 0])}, "has logits or tolerances that are not finite")):  # fmt: skip
        np.savez(tmp_path / "golden.npz", **{**members, "output.logits": LOGITS, **odd})
        with pytest.raises(LoadError, match=re.escape(fact)):
            read_golden(tmp_path / "golden.npz", several, FileReader(tmp_path))


def test_what_unpacks_to_more_than_may_be_is_not_unpacked(tmp_path: Path) -> None:
    """A megabyte that unpacks to a gigabyte."""
    path = sample(tmp_path)
    header = npy(np.empty((0, 1056), np.float32), shape=(1 << 18, 1056))
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, array in (("logits", LOGITS), ("rtol", 0.0), ("atol", 0.0)):
            archive.writestr(f"{name}.npy", npy(array))
        with archive.open("input.npy", "w", force_zip64=True) as member:
            member.write(header)
            for _ in range(66):
                member.write(bytes(1 << 24))
    assert path.stat().st_size < 2 << 20
    size = 66 * (1 << 24) + len(header) + sum(len(npy(array)) for array in (LOGITS, 0.0, 0.0))
    before = peak_bytes()
    assert refusal(path) == f"unpacks to {size} bytes; the most is 1073741824"
    assert peak_bytes() - before < 100 << 20


def peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


def test_what_is_unpacked_is_no_more_than_the_list_of_members_says(tmp_path: Path) -> None:
    path = sample(tmp_path, input=npy(np.ones((1 << 16, 4), np.float32)))
    content = bytearray(path.read_bytes())
    place, size = content.index(b"PK\x01\x02"), struct.pack("<I", len(npy(np.ones((2, 4), np.float32))))
    content[place + 24 : place + 28] = size
    path.write_bytes(content)
    assert refusal(path) == "cannot be read: Bad CRC-32 for file 'input.npy'"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"input": npy(LOGITS, shape=(1 << 40, 784))}, "has 24 bytes for input.npy, whose shape (1099511627776, 784) needs 3448068464705536"),
        ({"input": npy(LOGITS, shape=(1, 1))}, "has 24 bytes for input.npy, whose shape (1, 1) needs 4"),
        ({"input": npy(LOGITS, shape=(-2, -3))}, "cannot be read: "),
        ({"input": npy(LOGITS, shape=(1 << 62, 0))}, "has 24 bytes for input.npy, whose shape "),
        ({"input": npy(LOGITS, descr="|O")}, "has Python objects in input.npy; expected numbers"),
        ({"logits": npy(np.empty((2, 0), np.float32))}, "has input float32 [2, 4] for logits [2, 0]"),
        ({"input": b"\x93NUMPY\x03\x00" + npy(LOGITS)[8:]}, "has input.npy in version (3, 0) of numpy's format"),
        ({"input": b"\x93NUMPY\x02\x00" + struct.pack("<I", 1 << 31) + bytes(100)}, "cannot be read: "),
        ({"input": b"\x93NUMPY\x01\x00" + struct.pack("<H", 60_000) + b"(" * 60_000}, "cannot be read: "),
        ({"input": b""}, "cannot be read: "),
    ],
)  # fmt: skip
def test_an_array_that_is_not_what_it_says_is_refused(tmp_path: Path, change: dict[str, bytes], says: str) -> None:
    assert refusal(sample(tmp_path, **change)).startswith(says)


def test_an_archive_of_more_members_than_arrays_can_be_is_not_listed(tmp_path: Path) -> None:
    path = sample(tmp_path)
    with zipfile.ZipFile(path, "a") as archive:
        for number in range(2000):
            archive.writestr(f"{number:0>600}", b"")
    assert refusal(path) == "has too many members"


@pytest.mark.parametrize("method", [zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2])
def test_arrays_that_are_packed_as_numpy_does_not_are_refused(tmp_path: Path, method: int) -> None:
    with zipfile.ZipFile(tmp_path / "golden.npz", "w", method) as archive:
        for name, content in (("input", LOGITS), ("logits", LOGITS), ("rtol", 0.0), ("atol", 0.0)):
            archive.writestr(f"{name}.npy", npy(content))
    assert refusal(tmp_path / "golden.npz") == "has input.npy packed in a way that numpy does not"


def test_beside_large_numbers_a_small_one_may_be_off_by_their_rounding_and_no_further() -> None:
    logits = np.array([[1e-3, -4000.0], [1e-3, 2.0]], np.float32)
    sample = Golden({}, logits, 0.0, 1e-5)
    compare(logits + np.array([[1e-3, 0], [1e-5, 0]], np.float32), logits, sample, 0, 2)
    for row, off in ((0, 4e-3), (1, 1e-3)):
        wrong = logits.copy()
        wrong[row, 0] += off
        with pytest.raises(LoadError, match=f"at row {row}, "):
            compare(wrong, logits, sample, 0, 2)
