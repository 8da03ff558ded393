"""Runs mergekit on its own configuration files: `python configurations.py FOLDER`, with a Python that has mergekit.

Every ``NAME.yml`` in FOLDER becomes the directory ``NAME.theirs``; one with several documents goes through mergekit-multi. ``methods.json``
says which methods there are, with the default of each parameter.
"""

import json
import subprocess
import sys
from pathlib import Path

import yaml
from mergekit.config import MergeConfiguration
from mergekit.merge import run_merge
from mergekit.merge_methods.registry import registered_methods
from mergekit.options import MergeOptions


def main(folder: Path) -> None:
    """Run every file."""
    known = {
        method.spec.name: {p.name: None if p.required else p.default for p in method.spec.parameters}
        for method in registered_methods()
    }
    (folder / "methods.json").write_text(json.dumps(known))
    for file in sorted(folder.glob("*.yml")):
        out = str(file.with_suffix(".theirs"))
        documents = list(yaml.safe_load_all(file.read_text()))
        if len(documents) > 1:
            between = str(file.with_suffix(".between"))
            places = ["--out-path", out, "-I", between]
            options = ["--no-copy-tokenizer", "--no-write-model-card", "--quiet"]
            module = [sys.executable, "-m", "mergekit.scripts.multimerge"]
            subprocess.run([*module, str(file), *places, *options], check=True)
        else:
            options = MergeOptions(copy_tokenizer=False, write_model_card=False, quiet=True)
            run_merge(MergeConfiguration.model_validate(documents[0]), out, options)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
