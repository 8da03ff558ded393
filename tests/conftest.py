"""What all tests share."""

import fcntl
import os
import random
import subprocess
import sys
from collections.abc import Generator, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from commands import Commands
from hypothesis import HealthCheck, settings
from hypothesis.internal.conjecture import providers
from small_models import make_small_models

os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# Else each of hundreds of processes would compile all of graftwork again
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
# The same examples in every run, so that a change passes or fails by what it changes; other ones: --hypothesis-profile=default
settings.register_profile("repeatable", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("repeatable")
# Else numbers and texts in whichever modules of graftwork are imported by then would be among the examples
providers._get_local_constants = lambda: providers._local_constants
pytest.register_assert_rewrite("graftwork.testing", "composed")


# A test says the same alone, first or last ------------------------------------------------------------------------------

STARTS = pytest.StashKey[dict[str, Any]]()
"""The states that a test module's generators of random numbers begin with."""


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Before each test, what a process numbers and draws begins again, as if no other test had run in it."""
    begin_again(item)


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(
    fixturedef: pytest.FixtureDef[Any], request: pytest.FixtureRequest
) -> Generator[None, Any, Any]:
    """What several tests share comes out alike whichever of them asks first, and that one does not notice."""
    if fixturedef.scope == "function":
        return (yield)
    begin_again(request.node)
    try:
        return (yield)
    finally:
        begin_again(request.node)


def begin_again(node: pytest.Collector | pytest.Item) -> None:
    """Name layers from `dense` on and draw from seed 0 in the libraries that are loaded; models that are there stay as they are."""
    random.seed(0)
    np.random.seed(0)
    keras = sys.modules.get("keras.src.backend.common.global_state")
    if keras is not None:
        for name in ("object_name_uids", "global_random_seed", "global_seed_generator"):
            keras.set_global_attribute(name, None)
    if "tf_keras.src.backend" in sys.modules:
        sys.modules["tf_keras.src.backend"].reset_uids()
    if "tensorflow" in sys.modules:
        sys.modules["tensorflow"].random.set_seed(0)
    module = node.getparent(pytest.Module)
    if module is not None:
        generators = {k: v.bit_generator for k, v in vars(module.obj).items() if isinstance(v, np.random.Generator)}
        starts = module.stash.setdefault(STARTS, {name: found.state for name, found in generators.items()})
        for name, state in starts.items():
            generators[name].state = state


# Made once -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def small_models(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with small `.keras` files, made once for all workers; not to be written to."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if hasattr(pytestconfig, "workerinput") else base) / "small_models"
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            made = tmp_path_factory.mktemp("small_models")
            make_small_models(made).rename(folder)
    return folder


@pytest.fixture(scope="session")
def commands() -> Iterator[Commands]:
    """Runs `graftwork` in processes that need not import TensorFlow."""
    with Commands() as made:
        yield made


@pytest.fixture(scope="session", autouse=True)
def checks_are_forked(commands: Commands) -> Iterator[None]:
    """The process in which graftwork reloads what it has made need not import TensorFlow either; `test_fresh` starts real ones."""
    stand_in = SimpleNamespace(run=commands.stand_in, TimeoutExpired=subprocess.TimeoutExpired)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("graftwork.models.fresh.subprocess", stand_in)
        yield
