"""What a student learns from an ensemble, and what it costs to ask the teachers once instead of in every epoch."""

import json
import statistics
import subprocess
import sys
from collections.abc import Callable
from typing import Any

from benchmarks.options import Options

SEEDS = 5
SIZES = (("a tenth of the ensemble", 11),)
LESSONS = 150
"""Epochs of the students on the digits; with fewer, accuracies differ more from seed to seed."""
EPOCHS = 10
TEACHER = 112
"""Channels of the teacher's first convolution: what makes a pass over the data as long as five epochs of the student's training."""

LEARNED = """
import json, os, sys
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
import keras, numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
import graftwork as gw

L = keras.layers
digits = load_digits()
images, labels = (digits.images / 16).astype("float32")[..., None], digits.target

def network(width, name, seed, dropout=0.0):
    keras.utils.set_random_seed(seed)
    return keras.Sequential([
        keras.Input((8, 8, 1), name="image"),
        L.Conv2D(width, 3, activation="relu", padding="same"), L.MaxPooling2D(),
        L.Conv2D(2 * width, 3, activation="relu", padding="same"), L.MaxPooling2D(), L.Flatten(),
        L.Dense(4 * width, activation="relu"), L.Dropout(dropout), L.Dense(10, activation="softmax"),
    ], name=name)

for seed in range(int(sys.argv[1])):
    x, test, y, expected = train_test_split(images, labels, test_size=0.5, stratify=labels, random_state=seed)
    teachers = []
    for number in range(5):
        teacher = network(16, f"teacher_{number}", 100 * seed + number, 0.3)
        teacher.compile("adam", "sparse_categorical_crossentropy", jit_compile=False)
        teacher.fit(x, y, epochs=40, verbose=0)
        teachers.append(teacher)
    right = lambda said: float((said.argmax(1) == expected).mean())
    row = {
        "ensemble": right(np.mean([each.predict(test, verbose=0) for each in teachers], axis=0)),
        "one teacher": float(np.mean([right(each.predict(test, verbose=0)) for each in teachers])),
        "parameters": [sum(each.count_params() for each in teachers)],
    }
    for share, width in json.loads(sys.argv[2]):
        student = network(width, "student", 1000 + seed)
        row["parameters"].append(student.count_params())
        for way, options in (("labels", {"alpha": 0.0}), ("teachers", {})):
            made = gw.distill(
                teachers, student, data=(x, y), epochs=int(sys.argv[3]), learning_rate=2e-3, best=False, jit=False, seed=seed, **options
            )
            row[f"{way}, {share}"] = right(made.predict(test, verbose=0))
    print(json.dumps(row), flush=True)
"""

COST = """
import json, os, sys, time
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
import keras, numpy as np
import graftwork as gw

L = keras.layers
epochs, rounds, width = (int(text) for text in sys.argv[1:])
rng = np.random.default_rng(0)
x, y = rng.random((4096, 32, 32, 3), dtype="float32"), rng.integers(0, 10, 4096)

def network(width, name):
    keras.utils.set_random_seed(0)
    return keras.Sequential([
        keras.Input((32, 32, 3), name="image"),
        L.Conv2D(width, 3, strides=2, activation="relu"), L.Conv2D(2 * width, 3, activation="relu"),
        L.Conv2D(2 * width, 3, strides=2, activation="relu"), L.GlobalAveragePooling2D(), L.Dense(10, activation="softmax"),
    ], name=name)

def timed(work):
    wall, processor = time.perf_counter(), time.process_time()
    work()
    return [time.perf_counter() - wall, time.process_time() - processor]

def alone():
    model = keras.models.clone_model(student)
    model.compile("adam", "sparse_categorical_crossentropy", jit_compile=False)
    model.fit(x, y, epochs=1, verbose=0)
    return [each / 2 for each in timed(lambda: model.fit(x, y, epochs=2, verbose=0))]

def asked():
    teacher.predict(x, batch_size=32, verbose=0)
    return timed(lambda: teacher.predict(x, batch_size=32, verbose=0))

student, teacher = network(12, "student"), network(width, "teacher")
teacher.compile(jit_compile=False)
for _ in range(rounds):
    row = {"student epoch": alone(), "teacher pass": asked()}
    for cache, number in ((False, epochs), (True, 1), (True, epochs)):
        row[f"{cache} {number}"] = timed(
            lambda: gw.distill([teacher], student, data=(x, y), cache=cache, epochs=number, best=False, jit=False)
        )
    print(json.dumps(row), flush=True)
"""


def distilling(given: Options) -> str:
    """Students of an ensemble against the same students without it, on scikit-learn's digits; and epochs with teachers asked once."""
    return "\n".join([*_learned(), "", *_cost(given.rounds)])


def _lines(script: str, *arguments: str) -> list[dict[str, Any]]:
    done = subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"the benchmark ended with status {done.returncode}: {done.stderr[-2000:]}")
    return [json.loads(line) for line in done.stdout.splitlines()]


def _learned() -> list[str]:
    rows = _lines(LEARNED, str(SEEDS), json.dumps(SIZES), str(LESSONS))
    whole, *sizes = rows[0]["parameters"]

    def spread(values: list[float]) -> str:
        return f"{statistics.mean(values):.4f} ± {statistics.stdev(values):.4f}"

    table = []
    for (share, _), size in zip(SIZES, sizes, strict=True):
        alone, taught = ([row[f"{way}, {share}"] for row in rows] for way in ("labels", "teachers"))
        margins = [b - a for a, b in zip(alone, taught, strict=True)]
        table.append(
            f"| {share} | {size:,} | {spread(alone)} | {spread(taught)} | {spread(margins)} | {min(margins):+.4f} … {max(margins):+.4f} |"
        )
    return [
        f"scikit-learn's digits, half for training and half for testing (`train_test_split`, stratified), {SEEDS} seeds. Five",
        f"convolutional teachers with {whole:,} parameters together give {spread([row['ensemble'] for row in rows])} as an ensemble,",
        f"and one of them {spread([row['one teacher'] for row in rows])}. Students have the same initial weights,",
        f"batches and {LESSONS} epochs",
        "with labels alone (alpha 0) and with teachers (alpha 0.9, temperature 4, the defaults). Accuracy on the test half, mean ±",
        "standard deviation over seeds.",
        "",
        "| student | parameters | labels alone | with teachers | margin | least … most |",
        "|---|---:|---:|---:|---:|---:|",
        *table,
    ]


def _cost(rounds: int) -> list[str]:
    found = _lines(COST, str(EPOCHS), str(rounds), str(TEACHER))

    def middle(value: Callable[[dict[str, list[float]]], list[float]]) -> tuple[float, float]:
        wall, processor = zip(*map(value, found), strict=True)
        return statistics.median(wall), statistics.median(processor)

    def row(what: str, value: Callable[[dict[str, list[float]]], list[float]]) -> str:
        wall, processor = middle(value)
        return f"| {what} | {wall:.2f} | {processor:.2f} |"

    def by(above: str, below: str) -> tuple[float, float]:
        return middle(lambda each: [a / b for a, b in zip(each[above], each[below], strict=True)])

    whole, live = f"True {EPOCHS}", f"False {EPOCHS}"
    size, faster = by("teacher pass", "student epoch"), by(live, whole)
    return [
        "4,096 images of 32×32, a student of three convolutions, and a teacher whose answers to all of them take "
        f"{size[0]:.1f} times as long (and",
        f"{size[1]:.1f} times the processor time) as an epoch of the student's training. Whole calls of `gw.distill`, copies and tracing",
        f"included, without XLA; medians of {rounds} rounds.",
        "",
        "| | wall s | processor s |",
        "|---|---:|---:|",
        row("an epoch of the student alone (Keras's `fit`)", lambda each: each["student epoch"]),
        row("the teacher's answers, once", lambda each: each["teacher pass"]),
        row(f"{EPOCHS} epochs, asked in each (`cache=False`)", lambda each: each[live]),
        row(f"{EPOCHS} epochs, asked once (`cache=True`)", lambda each: each[whole]),
        row(
            "of these, each epoch after the first",
            lambda each: [(a - b) / (EPOCHS - 1) for a, b in zip(each[whole], each["True 1"], strict=True)],
        ),
        "",
        f"Asked once: {faster[0]:.1f} times as fast over {EPOCHS} epochs, in processor time {faster[1]:.1f} times.",
    ]
