"""What importing `frostline_training` gives, and costs."""

import subprocess
import sys

import pytest

import frostline
import frostline_training
from frostline_training.publishing.publish import publish


def test_publish_is_three_lines_away_in_a_users_own_script() -> None:
    assert frostline_training.publish is publish
    assert frostline.publish is publish


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'publisch'"):
        frostline_training.publisch  # noqa: B018 the access is the test


def test_recipes_can_be_listed_without_importing_pytorch_or_scikit_learn() -> None:
    script = "import sys, frostline_training.config, frostline_training.errors; assert not {'torch', 'sklearn'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", script], check=True)
