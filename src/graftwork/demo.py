"""Merging seen at work: small models trained on real data, merged by the real command line, measured afterwards.

Keras lives in one process of its own, which trains before the merges and evaluates after them. The process that starts the merges
stays as small as the command line is: Linux counts the memory of the process that starts a child into the child's peak.
"""

import importlib.util
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from graftwork.errors import GraftworkError, OutputError
from graftwork.models.lazy import keras

DIGITS: Mapping[str, tuple[int, ...]] = {
    "low": (0, 1, 2, 3, 4, 5, 6),
    "high": (3, 4, 5, 6, 7, 8, 9),
    "ends": (0, 1, 2, 3, 7, 8, 9),
}
"""What each fine-tune of the base gets to see; it forgets the rest."""

TRAINED = {
    "base": "trained on 150 images of all digits",
    "low": "base, fine-tuned on all images of 0 to 6 only",
    "high": "base, fine-tuned on all images of 3 to 9 only",
    "ends": "base, fine-tuned on all images of 7 to 3 only",
    "apart": "trained on all images of all digits, from another start",
}

TUNED = "low.keras high.keras ends.keras"

MERGES: Mapping[str, str] = {
    "soup": f"{TUNED}",
    "task_arithmetic": f"{TUNED} -m task_arithmetic --base base.keras --set lambda=0.4",
    "ties": f"{TUNED} -m ties --base base.keras --set density=0.5 --set lambda=0.6",
    "dare_ties": f"{TUNED} -m dare_ties --base base.keras --set density=0.7 --set lambda=0.6",
    "slerp": "low.keras high.keras -m slerp",
    "broken": "soup.keras apart.keras",
}
"""What is written behind `graftwork merge` for every merge, in order."""


def run(folder: Path | None, tell: Callable[[str], None]) -> list[dict[str, Any]]:
    """Train, merge and evaluate; return one row for each model.

    Args:
        folder: An empty or new directory that keeps the models; by default a temporary one.
        tell: Told what is being done, one line each time.

    Returns:
        Rows with ``model``, ``accuracy`` on the images kept apart, ``how`` it was made, and for merges ``seconds`` and ``peak_mb`` of
        the command.

    Raises:
        GraftworkError: If scikit-learn is missing, or a merge fails.
        OutputError: If the folder holds something already, or cannot be made.
    """
    if importlib.util.find_spec("sklearn") is None:
        raise GraftworkError(
            "the demo takes its images from scikit-learn; install it with `pip install graftwork[demo]`"
        )
    if folder is None:
        with tempfile.TemporaryDirectory(prefix="graftwork-demo-") as temporary:
            return _run(Path(temporary), tell)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise OutputError(f"{folder} is not an empty directory; name a new one for the demo's models")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{folder} cannot be made: {error.strerror}") from error
    return _run(folder, tell)


def _run(folder: Path, tell: Callable[[str], None]) -> list[dict[str, Any]]:
    costs: dict[str, tuple[float, float]] = {}
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"), initializer=_quiet) as keras_process:
        tell("training a base, three fine-tunes of it and one model apart (scikit-learn's digits, 8×8 pixels)")
        keras_process.submit(train, folder).result()
        for name, arguments in MERGES.items():
            command = ["merge", *arguments.split(), "-o", f"{name}.keras"]
            tell("graftwork " + " ".join(command))
            costs[name] = _measure(folder, command)
        tell("evaluating all of them on 600 images that no model has seen")
        accuracy = keras_process.submit(evaluate, folder, [*TRAINED, *MERGES]).result()
    rows: list[dict[str, Any]] = []
    for name, how in TRAINED.items():
        known = f", {accuracy[name]['own']:.1%} right on those" if name in DIGITS else ""
        rows.append({"model": name, "accuracy": accuracy[name]["all"], "how": how + known})
    for name, arguments in MERGES.items():
        seconds, peak_mb = costs[name]
        how = f"graftwork merge {arguments}"
        rows.append(
            {"model": name, "accuracy": accuracy[name]["all"], "seconds": seconds, "peak_mb": peak_mb, "how": how}
        )
    return rows


def _measure(folder: Path, arguments: Sequence[str]) -> tuple[float, float]:
    """Run one command in a process of its own; return its seconds and its peak resident memory in megabytes."""
    with tempfile.TemporaryFile() as said:
        begin = time.perf_counter()
        command = [sys.executable, "-m", "graftwork", *arguments]
        child = subprocess.Popen(command, cwd=folder, stdin=subprocess.DEVNULL, stdout=said, stderr=said)
        _, status, usage = os.wait4(child.pid, 0)
        seconds = time.perf_counter() - begin
        child.returncode = os.waitstatus_to_exitcode(status)
        if child.returncode:
            said.seek(0)
            told = said.read().decode(errors="replace").strip()
            raise GraftworkError(f"`graftwork {' '.join(arguments)}` ended with status {child.returncode}: {told}")
    unit = 1 if sys.platform == "darwin" else 1024
    return round(seconds, 2), round(usage.ru_maxrss * unit / 1e6, 1)


def show(rows: Sequence[Mapping[str, Any]]) -> None:
    """Print the rows as one table, and what to see in it."""
    from graftwork.report import render

    found = {row["model"]: row["accuracy"] for row in rows}
    render.table(
        ("model", "accuracy", "seconds", "peak MB", "how it was made"),
        [
            (
                row["model"],
                f"{row['accuracy']:.3f}",
                f"{row['seconds']:.1f}" if "seconds" in row else "",
                f"{row['peak_mb']:.0f}" if "peak_mb" in row else "",
                row["how"],
            )
            for row in rows
        ],
        right=("accuracy", "seconds", "peak MB"),
    )
    render.paragraph(
        f"Each fine-tune has forgotten the digits it did not see ({found['low']:.3f}, {found['high']:.3f}, {found['ends']:.3f}); their "
        f"plain average knows all ten ({found['soup']:.3f}), because all three come from one base and are still near it."
    )
    render.paragraph(
        f"The average of two models that do not share a start is worse than both ({found['soup']:.3f} and {found['apart']:.3f} give "
        f"{found['broken']:.3f}), although shapes and names agree: such models are ensembled or distilled, not averaged."
    )


# In the process that holds Keras ---------------------------------------------------------------------------------------


def _quiet() -> None:
    """Keep TensorFlow's start-up messages off the terminal, and the work on the processor."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)


def _data() -> tuple[Any, Any, Any, Any]:
    """Return images and labels to train with, then those to evaluate with."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    images, labels = load_digits(return_X_y=True)
    images = (images / 16).astype("float32").reshape(-1, 8, 8, 1)
    x, x_test, y, y_test = train_test_split(images, labels, test_size=600, random_state=0, stratify=labels)
    return x, y, x_test, y_test


def _new_model() -> Any:
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Conv2D(16, 3, activation="relu", padding="same", name="edges"),
            layers.MaxPooling2D(),
            layers.Conv2D(32, 3, activation="relu", padding="same", name="strokes"),
            layers.Flatten(),
            layers.Dense(64, activation="relu", name="shapes"),
            layers.Dense(10, activation="softmax", name="digits"),
        ]
    )


def train(folder: Path) -> None:
    """Train and save every model of `TRAINED`; the same on every run."""
    import numpy as np

    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        tf.config.experimental.enable_op_determinism()
    x, y, _, _ = _data()

    def fit(model: Any, chosen: Any, seed: int, epochs: int) -> Any:
        keras.utils.set_random_seed(seed)
        model.compile(keras.optimizers.Adam(1e-3), "sparse_categorical_crossentropy")
        model.fit(x[chosen], y[chosen], batch_size=32, epochs=epochs, verbose=0)
        return model

    keras.utils.set_random_seed(1)
    base = fit(_new_model(), slice(150), seed=1, epochs=12)
    base.save(folder / "base.keras")
    for seed, (name, digits) in enumerate(DIGITS.items()):
        tuned = keras.saving.load_model(folder / "base.keras")
        fit(tuned, np.isin(y, digits), seed=seed, epochs=5).save(folder / f"{name}.keras")
    keras.utils.set_random_seed(2)
    fit(_new_model(), slice(None), seed=2, epochs=6).save(folder / "apart.keras")


def evaluate(folder: Path, names: Sequence[str]) -> dict[str, dict[str, float]]:
    """Return the accuracy of saved models on the images kept apart: on all, and on the digits each was tuned on."""
    import numpy as np

    _, _, x, y = _data()
    found = {}
    for name in names:
        model = keras.saving.load_model(folder / f"{name}.keras", compile=False)
        right = np.argmax(np.asarray(model(x)), axis=1) == y
        found[name] = {"all": float(right.mean()), "own": float(right[np.isin(y, DIGITS.get(name, range(10)))].mean())}
    return found
