"""A head on a frozen network: features computed once against Keras's own `fit` of the whole."""

import json
import statistics
import subprocess
import sys
from typing import Any

from benchmarks.options import Options

SAMPLES, EPOCHS, CLASSES, RATE = 2000, 10, 10, 0.001

SETUP = """
import json, os, sys, time
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
import keras, numpy as np
import graftwork as gw

make_tuned = gw.finetune  # loads what it needs, as importing keras did
samples, epochs, classes, rate, rounds = json.loads(sys.argv[1])
keras.utils.set_random_seed(0)
trunk = keras.applications.MobileNetV2(input_shape=(96, 96, 3), weights=None, include_top=False, pooling="avg", name="mobilenet")
rng = np.random.default_rng(0)
y = rng.integers(0, classes, samples)
kinds = rng.normal(size=(classes, 12, 12, 3)).repeat(8, 1).repeat(8, 2)
x = (kinds[y] + rng.normal(size=(samples, 96, 96, 3))).astype("float32")

norms = [layer for layer in trunk.layers if isinstance(layer, keras.layers.BatchNormalization)]
for layer in norms:  # random weights, yet statistics that fit the images, so that there is something in the features
    layer.momentum = 0.0
trunk(x[:256], training=True)
for layer in norms:
    layer.momentum = 0.999

def loss(model):
    judge = keras.Model(model.inputs, model.outputs)
    judge.compile(loss="sparse_categorical_crossentropy")
    return float(judge.evaluate(x, y, verbose=0))

def new_head(seed):
    keras.utils.set_random_seed(seed)
    return keras.Sequential([keras.Input((1280,)), keras.layers.Dense(classes, activation="softmax")], name="head")

def by_keras(seed):
    head = new_head(seed)
    base = keras.models.clone_model(trunk)
    base.set_weights(trunk.get_weights())
    base.trainable = False
    model = keras.Sequential([keras.Input((96, 96, 3)), base, head])
    model.compile(keras.optimizers.Adam(rate), "sparse_categorical_crossentropy")
    model.fit(x, y, epochs=epochs, batch_size=32, verbose=0)
    return model

def by_graftwork(seed):
    return make_tuned(trunk, data=(x, y), head=new_head(seed), epochs=epochs, learning_rate=rate, best=False, seed=seed)
"""

TIMED = """
for number in range(rounds):
    found = {}
    for name, make in (("graftwork", by_graftwork), ("keras", by_keras)):
        begin, cpu = time.perf_counter(), time.process_time()
        model = make(number)
        found[name] = [time.perf_counter() - begin, time.process_time() - cpu, loss(model)]
    print(json.dumps(found), flush=True)
"""

ORDERS = 14
"""Orders of the samples in which one head is trained both ways, to tell what differs from what the order does."""

BY_ORDER = """
features = trunk.predict(x, verbose=0, batch_size=32)
same = keras.Sequential([keras.Input((1280,)), keras.layers.Rescaling(1.0)], name="same")

def loss_of(weights):
    head = new_head(0)
    head.set_weights(weights)
    head.compile(loss="sparse_categorical_crossentropy", jit_compile=False)
    return float(head.evaluate(features, y, verbose=0))

for number in range(rounds):
    head = new_head(0)
    keras.utils.set_random_seed(2000 + number)
    head.compile(keras.optimizers.Adam(rate), "sparse_categorical_crossentropy", jit_compile=False)
    head.fit(features, y, epochs=epochs, batch_size=32, verbose=0)
    made = make_tuned(
        same, data=(features, y), head=new_head(0), epochs=epochs, learning_rate=rate, best=False, seed=2000 + number, jit=False
    )
    weights = [keras.ops.convert_to_numpy(weight) for weight in made.weights[-2:]]
    print(json.dumps({"keras": loss_of(head.get_weights()), "graftwork": loss_of(weights)}), flush=True)
"""


def finetuning(given: Options) -> str:
    """MobileNetV2 at 96×96 with random weights (statistics of BatchNormalization set once on the images), frozen, and a new head on it."""
    rounds, orders = _lines(SETUP + TIMED, given.rounds), _lines(SETUP + BY_ORDER, ORDERS)
    rows = []
    for name in ("keras", "graftwork"):
        wall, cpu = (statistics.median(each[name][place] for each in rounds) for place in (0, 1))
        losses = [each[name][2] for each in rounds]
        shown = f"{statistics.mean(losses):.4f} ({min(losses):.4f} to {max(losses):.4f})"
        rows.append(f"| {name} | {wall:.1f} | {cpu:.1f} | {shown} |")
    wall, cpu = (
        statistics.median(each["keras"][place] / each["graftwork"][place] for each in rounds) for place in (0, 1)
    )

    def spread(name: str) -> str:
        losses = [each[name] for each in orders]
        return f"{statistics.mean(losses):.4f} ± {statistics.stdev(losses):.4f}"

    return "\n".join(
        [
            f"{SAMPLES:,} images, {EPOCHS} epochs of a Dense layer of {CLASSES} classes on the pooled features, batches of 32, Adam at "
            f"{RATE}. `keras` is `fit` of the model with the frozen network in it; `graftwork` is `finetune`, all of it: the copy, the",
            "features, the head. The loss is that on the images after the last epoch, the mean over rounds; in each both begin with",
            "the same head, and see the images in orders of their own.",
            "",
            "| way | wall s | processor s | loss |",
            "|---|---:|---:|---:|",
            *rows,
            "",
            f"graftwork is {wall:.1f} times faster, compared within a round, with {cpu:.1f} times less of the processors.",
            "",
            f"The loss depends on the order of the images: one head, trained on the features in {ORDERS} orders, ends at",
            f"{spread('keras')} with Keras's `fit` and at {spread('graftwork')} with graftwork (mean ± standard deviation).",
        ]
    )


def _lines(script: str, rounds: int) -> list[dict[str, Any]]:
    said = json.dumps([SAMPLES, EPOCHS, CLASSES, RATE, rounds])
    done = subprocess.run([sys.executable, "-c", script, said], capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"the benchmark ended with status {done.returncode}: {done.stderr[-2000:]}")
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
