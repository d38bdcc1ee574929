"""What importing `training` gives, and costs."""

import subprocess
import sys

import pytest

import training
from training.export import publish


def test_publish_is_three_lines_away_in_a_users_own_script() -> None:
    assert training.publish is publish


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'publisch'"):
        training.publisch  # noqa: B018 the access is the test


def test_recipes_can_be_listed_without_importing_pytorch_or_scikit_learn() -> None:
    script = "import sys, training.config, training.errors; assert not {'torch', 'sklearn'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", script], check=True)
