"""`frostline.publish`: training, one attribute away from the client."""

import subprocess
import sys
from pathlib import Path

import frostline
from frostline_server import regular_files
from frostline_server.runtime import row_schema
from frostline_training.data import rows
from frostline_training.publishing.publish import publish

SCRIPT = """
import torch

import frostline

published = frostline.publish(torch.nn.Linear(4, 3), torch.randn(8, 4), name="mine")
print(published.version)
"""


def _ran(script: str, folder: Path) -> "subprocess.CompletedProcess[str]":
    (folder / "app.py").write_text(script)
    return subprocess.run(
        [sys.executable, "app.py"], cwd=folder, capture_output=True, text=True, timeout=120, check=False
    )


def test_publish_is_that_of_the_training_package() -> None:
    assert frostline.publish is publish
    assert "publish" in dir(frostline)


def test_a_users_own_folders_called_training_and_server_are_in_nobodys_way(tmp_path: Path) -> None:
    for name in ("training", "server"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").touch()
    done = _ran(SCRIPT, tmp_path)
    assert (done.returncode, done.stdout) == (0, "1\n"), done.stderr
    assert (tmp_path / "models/mine/1/model.onnx").exists()


def test_without_torch_it_says_what_to_install(tmp_path: Path) -> None:
    done = _ran("import sys\nsys.modules['torch'] = None\nimport frostline\nfrostline.publish", tmp_path)
    assert done.stderr.splitlines()[-1] == (
        "ModuleNotFoundError: frostline.publish needs torch, which is not installed: pip install 'frostline[train]'"
    )


def test_nothing_is_published_that_is_larger_than_a_server_reads() -> None:
    assert rows.MOST_COLUMNS == row_schema.MOST_COLUMNS
    assert rows.MOST_CARD_BYTES == regular_files.MAX_TEXT_BYTES
