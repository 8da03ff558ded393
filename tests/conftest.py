"""What all tests share."""

import os
from pathlib import Path

import pytest
from hypothesis import settings
from small_models import make_small_models

os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# The same examples in every run, so that a change passes or fails by what it changes; other ones: --hypothesis-profile=default
settings.register_profile("repeatable", derandomize=True)
settings.load_profile("repeatable")
pytest.register_assert_rewrite("graftwork.testing", "composed")


@pytest.fixture(scope="session")
def small_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with small `.keras` files, made once; not to be written to."""
    return make_small_models(tmp_path_factory.mktemp("small_models"))
