"""Verbs on checkpoints and SavedModels: the Python function, the command and the recipe's step have the options that the step declares."""

import inspect
import re

import pytest
import typer

import graftwork as gw
from graftwork.api.steps import Wanted
from graftwork.cli import checkpoints, savedmodel
from graftwork.recipe import schema
from graftwork.recipe.checkpoints import CHECKPOINT_STEPS
from graftwork.recipe.savedmodel import SAVEDMODEL_STEPS

GROUPS = {"ckpt": (gw.checkpoints, checkpoints.app), "savedmodel": (gw.savedmodel, savedmodel.app)}
STEPS = {**CHECKPOINT_STEPS, **SAVEDMODEL_STEPS}


def test_there_are_the_verbs_that_were_asked_for():
    """None is lost when a file is no longer imported."""
    assert {*STEPS} >= {f"ckpt_{verb}" for verb in ("merge", "average", "assign", "rename", "extract", "drop", "cast")}
    assert {*STEPS} >= {f"savedmodel_{verb}" for verb in ("bridge", "lift", "chain", "ensemble", "combine")}


@pytest.mark.parametrize("kind", sorted(STEPS))
def test_a_verb_exists_three_times_with_one_meaning(kind):
    """The same options with the same defaults and words; nothing is hidden by what all verbs take."""
    cls = STEPS[kind]
    group, _, verb = kind.partition("_")
    home, app = GROUPS[group]
    made = getattr(home, verb)
    sources = {*cls.takes, *cls.paths}
    own = {
        name: p
        for name, p in inspect.signature(made).parameters.items()
        if p.kind is not inspect.Parameter.VAR_KEYWORD and name not in sources
    }
    assert set(own) >= set(cls.choices())
    assert not set(cls.model_fields) & set(Wanted.__annotations__)
    words = " ".join((made.__doc__ or "").split())
    assert " ".join((cls.__doc__ or "").split()) in words
    for name, option in cls.choices().items():
        description = " ".join((option.description or "").split())
        assert re.search(r"[.]$", description), f"{name} is not described"
        assert f"{name}: {description}" in words
        if own[name].default is not inspect.Parameter.empty and not option.is_required():
            default = option.get_default(call_default_factory=True)
            assert own[name].default == default or (not own[name].default and not default)
    command = typer.main.get_group(app).get_command(None, verb.replace("_", "-"))
    assert {p.name for p in command.params} >= {*sources, *cls.choices(), "output", "dry_run", "overwrite"}
    assert f'"{kind}"' in str(schema()).replace("'", '"')
