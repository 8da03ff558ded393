"""Runs mergekit on the jobs of `test_peer.py`: `python driver.py FOLDER`, with a Python that has mergekit, in a process of its own.

FOLDER holds `jobs.json` and `tensors.npz` (`NAME/base`, `NAME/0`, `NAME/1` …); `results.npz` and `errors.json` (both by `JOB/NAME`) and
`methods.txt` (what it has) are written beside them. What mergekit cannot merge is an error of that tensor, not of the run.
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
from mergekit.merge_methods.api import merge_tensors
from mergekit.merge_methods.registry import registered_methods


def main(folder: Path) -> None:
    """Merge every tensor of every job."""
    jobs = json.loads((folder / "jobs.json").read_text())
    tensors = np.load(folder / "tensors.npz")
    results, errors = {}, {}
    for job in jobs:
        models = [str(i) for i in range(job["models"])]
        ids = ["base", *models] if job["base"] else models
        torch.manual_seed(0)
        for name, given in job["tensors"].items():
            parameters = {
                key: dict(zip(models, value, strict=True)) if isinstance(value, list) else value
                for key, value in given["parameters"].items()
            }
            arrays = [(tensors[f"{name}/{who}"] * given["factor"]).astype(given["dtype"]) for who in ids]
            try:
                merged = merge_tensors(
                    [torch.from_numpy(array.reshape(given["shape"])) for array in arrays],
                    job["method"],
                    parameters=parameters,
                    ids=ids,
                    base_index=0 if job["base"] else None,
                    name=name,
                )
            except Exception as error:  # whatever it is, the test says whether it is expected
                errors[f"{job['id']}/{name}"] = f"{type(error).__name__}: {error}"
            else:
                results[f"{job['id']}/{name}"] = merged.numpy().reshape(arrays[0].shape) / given["factor"]
    np.savez(folder / "results.npz", **results)
    (folder / "errors.json").write_text(json.dumps(errors))
    (folder / "methods.txt").write_text(" ".join(method.spec.name for method in registered_methods()))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
