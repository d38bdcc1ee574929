"""A published network for pictures takes files as they are: its golden sample holds real and odd ones."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import frostline
from frostline_training import publish
from frostline_training.data.rows import Image
from frostline_training.errors import PublishError
from tests.support.raw_media import picture_files, pixels_of

FILES = [file for file, _ in picture_files().values()]
SHOWN = pixels_of([shown for _, shown in picture_files().values()])
IMAGE = Image("image", (6, 8), fit="stretch")


def _network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 6 * 8, 2))


def test_pictures_become_what_a_viewer_shows() -> None:
    np.testing.assert_array_equal(frostline.encode(FILES, [IMAGE]), SHOWN)
    np.testing.assert_array_equal(frostline.encode({"image": FILES, "more": range(7)}, [IMAGE]), SHOWN)


def test_the_golden_sample_holds_files_and_what_the_network_answers(tmp_path: Path) -> None:
    published = publish(_network(), FILES, inputs=[IMAGE], test=(FILES, [0, 1] * 3 + [0]), name="f", models=tmp_path)
    card = json.loads((published.path / "card.json").read_text())
    column = {"name": "image", "kind": "image", "size": [6, 8], "color": "rgb", "fit": "stretch"}
    assert card["rows"] == {"columns": [{**column, "background": [255, 255, 255]}]}
    with np.load(published.path / "golden.npz", allow_pickle=False) as golden:
        joined, lengths, answers = golden["rows.image"], golden["rows.image.lengths"], golden["rows_logits"]
    assert (joined.dtype, lengths.dtype) == (np.uint8, np.int64)
    assert len(answers) == len(lengths) > len(FILES)
    assert lengths.sum() == len(joined)
    assert joined[: lengths[0]].tobytes() == FILES[0]
    with torch.no_grad():
        expected = _network()(torch.from_numpy(SHOWN)).numpy()
    np.testing.assert_allclose(answers[: len(FILES)], expected, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(
    ("sample", "image", "words"),
    [
        (FILES, Image("image", (0, 8)), "the image 'image': size.0"),
        (FILES, Image("image", (6, 9000)), "at most 8192 pixels a side"),
        (FILES, Image("input", (6, 8)), "a column is called 'input'"),
        ([FILES[0], b"GIF89a"], IMAGE, "is a GIF; send PNG, JPEG or WebP"),
        ([FILES[0], 1], IMAGE, "row 2, column 'image': int is not the path of a file, or its bytes"),
        (["nowhere.png"], IMAGE, "row 1: cannot read nowhere.png"),
        ([], IMAGE, "there are no raw rows"),
    ],
)
def test_what_are_no_pictures_is_refused(tmp_path: Path, sample: Any, image: Image, words: str) -> None:
    with pytest.raises(PublishError) as refusal:
        publish(_network(), sample, inputs=[image], test=(sample, None), name="f", models=tmp_path)
    assert words in str(refusal.value)
