"""One graph of eight models against eight calls: how long a batch takes."""

import json
import statistics
import subprocess
import sys

from benchmarks.options import Options

BATCHES = (1, 32, 1024)
MEMBERS = 8

IN_PROCESS = """
import json, os, sys, time
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
import keras, numpy as np, tensorflow as tf
from graftwork.compose import Member
from graftwork.compose.verbs.ensemble import Ensemble
from graftwork.models.copying import copy_model

members, batches, rounds = int(sys.argv[1]), json.loads(sys.argv[2]), int(sys.argv[3])
L = keras.layers

def dense(k):
    keras.utils.set_random_seed(k)
    hidden = [L.Dense(64, activation="relu"), L.Dense(64, activation="relu")]
    return keras.Sequential([keras.Input((64,)), *hidden, L.Dense(10, activation="softmax")])

def convolutions(k):
    keras.utils.set_random_seed(k)
    return keras.Sequential([keras.Input((16, 16, 3)), L.Conv2D(16, 3, activation="relu"), L.Conv2D(16, 3, strides=2, activation="relu"),
                             L.GlobalAveragePooling2D(), L.Dense(10, activation="softmax")])

def ensemble(models, **options):
    made = Ensemble(**options).compose([Member(name=f"m{k}", model=copy_model(m, f"m{k}")) for k, m in enumerate(models)])
    if made.finish is not None:
        made.finish()
    return made.model

def seconds(call, x):
    call(x)
    begin = time.perf_counter()
    call(x)
    times = max(1, min(50, int(0.1 / (time.perf_counter() - begin + 1e-9))))
    begin = time.perf_counter()
    for _ in range(times):
        call(x)
    return (time.perf_counter() - begin) / times

for kind, make in (("dense", dense), ("convolutions", convolutions)):
    models = [make(k) for k in range(members)]
    fused = {"one graph": ensemble(models), **({"stacked": ensemble(models, stack_weights=True)} if kind == "dense" else {})}
    for way in ("predict", "tf.function", "XLA"):
        def ready(model):
            if way == "predict":
                return lambda x: model.predict(x, batch_size=len(x), verbose=0)
            graph = tf.function(lambda x: model(x, training=False), jit_compile=way == "XLA")
            return lambda x: graph(x).numpy()
        each = [ready(model) for model in models]
        cases = {"one by one": lambda x: np.mean([call(x) for call in each], axis=0)}
        cases.update({name: ready(model) for name, model in fused.items()})
        for batch in batches:
            x = np.random.default_rng(0).normal(size=(batch, *models[0].input_shape[1:])).astype("float32")
            given = x if way == "predict" else tf.constant(x)
            expected = cases["one by one"](given)
            for name, case in cases.items():
                np.testing.assert_allclose(case(given), expected, rtol=1e-4, atol=1e-5, err_msg=name)
            for number in range(rounds):
                print(json.dumps([kind, way, batch, {name: seconds(case, given) for name, case in cases.items()}]), flush=True)
"""


def ensembles(given: Options) -> str:
    """Eight small models in one graph against the same models called in turn, by batch and by how the graph is run."""
    command = [sys.executable, "-c", IN_PROCESS, str(MEMBERS), json.dumps(BATCHES), str(given.rounds)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"the benchmark ended with status {done.returncode}: {done.stderr[-2000:]}")
    found: dict[tuple[str, str, int], list[dict[str, float]]] = {}
    for line in done.stdout.splitlines():
        kind, way, batch, times = json.loads(line)
        found.setdefault((kind, way, batch), []).append(times)
    rows = []
    for (kind, way, batch), rounds in found.items():
        base = statistics.median(times["one by one"] for times in rounds)
        one = statistics.median(times["one graph"] for times in rounds)
        ratio = statistics.median(times["one by one"] / times["one graph"] for times in rounds)
        stacked = [times["one graph"] / times["stacked"] for times in rounds if "stacked" in times]
        more = f"{statistics.median(stacked):.2f}" if stacked else "–"
        rows.append(f"| {kind} | {way} | {batch} | {base * 1000:.2f} | {one * 1000:.2f} | {ratio:.2f} | {more} |")
    return "\n".join(
        [
            f"{MEMBERS} members: `dense` takes 64 numbers through two layers of 64 units to 10 classes, `convolutions` takes 16×16",
            "images through two convolutions of 16 channels. Times faster is how many times as fast the ensemble in one graph is as its",
            "members in turn, whose outputs are averaged in NumPy; stacked is how many times faster than that graph it is with",
            "`stack_weights=True`, the weights of all members side by side. Ratios are of the same round.",
            "",
            "| members | run by | batch | one by one ms | one graph ms | times faster | stacked, times faster again |",
            "|---|---|---:|---:|---:|---:|---:|",
            *rows,
        ]
    )
