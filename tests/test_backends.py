"""Compositions on another Keras backend than TensorFlow: the same tests, in a process of their own."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent

SELECTED = [
    "test_copy.py::test_a_skeleton_is_the_model_without_values[partly frozen inside]",
    "test_copy.py::test_a_copy_is_the_same_to_the_last_bit_and_shares_nothing[nested]",
    "test_copy.py::test_a_copy_is_the_same_to_the_last_bit_and_shares_nothing[dictionaries]",
    "test_chain.py::test_three_models_in_a_row",
    "test_chain.py::test_ports_meet_by_name_not_by_place",
    "test_chain.py::test_masks_travel_along",
    "test_ensemble.py::test_every_combination_is_its_formula",
    "test_ensemble.py::test_members_compute_as_they_did_and_are_combined_in_float32",
    "test_ensemble.py::test_several_inputs_and_outputs_meet_by_name",
    "test_fuse.py::test_a_stack_trains_its_head_and_nothing_else[False]",
    "test_fuse.py::test_features_of_sequences_leave_padding_out",
    "test_freeze.py::test_unfreezing_a_part_moves_only_that_part",
    "test_surgery.py::test_extract_between_tensors",
    "test_surgery.py::test_trunk_and_head_are_the_model_again[add]",
    "test_real_models.py::test_cut_in_two_and_chained_a_model_is_itself[transformer]",
    "test_real_models.py::test_a_fusion_stands_on_inner_features_and_trains_alone[series]",
    "test_composing.py::test_results_are_checked_in_a_fresh_process[ensemble]",
    "test_finetune.py::test_kept_features_change_nothing_but_the_time",
    "test_finetune.py::test_l2_sp_is_half_the_squared_distance",
    "test_running.py::test_a_run_goes_on_where_it_was_interrupted[adam]",
    "test_estimates.py::test_fisher_of_a_linear_model_is_its_formula",
    "test_estimates.py::test_a_recipe_makes_what_its_merge_needs",
    "test_recalibrating.py::test_branches_against_sub_models",
    "test_recalibrating.py::test_what_a_mask_hides_does_not_count",
]
"""What is run: some of each verb's laws, with training, saving, loading, and a result that is checked in a fresh process."""


@pytest.mark.keras
def test_compositions_on_jax():
    """Copies, chains, ensembles, new heads, cuts and frozen layers are the same where Keras runs on JAX."""
    if importlib.util.find_spec("jax") is None:
        pytest.skip("jax is not installed")
    script = (
        "import sys, keras, pytest\n"
        "assert keras.backend.backend() == 'jax'\n"
        "sys.exit(pytest.main(['-n', '0', '-q', '-p', 'no:cacheprovider', *sys.argv[1:]]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, *(str(HERE / test) for test in SELECTED)],
        env={**os.environ, "KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu"},
        cwd=HERE.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
