"""TensorFlow checkpoints: read whole, listed, united and averaged, against TensorFlow's own reader and the floor."""

import json
import statistics
import subprocess
import sys

from benchmarks.measure import alternating, floor, graftwork, middle, process, ratio
from benchmarks.options import Options

TENSORS = 250
SIZE_MB = 1000

WRITE = """
import os, sys
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
import numpy as np, tensorflow as tf
prefix, scope, count, size = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
draw = np.random.default_rng(len(scope)).standard_normal
names = [f"{scope}/layer_{k}/kernel" for k in range(count)]
values = [draw((size // count // 4 // 500, 500), np.float32) for _ in range(count)]
tf.raw_ops.SaveV2(prefix=prefix, tensor_names=names, shape_and_slices=[""] * count, tensors=values)
"""

THEIRS = """
import os, sys, json, time
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
import tensorflow as tf
times = []
for _ in range(int(sys.argv[2])):
    begin = time.perf_counter()
    reader = tf.train.load_checkpoint(sys.argv[1])
    found = {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}
    times.append(time.perf_counter() - begin)
    del reader, found
print(json.dumps(times))
"""

OURS = """
import sys, json, time
import numpy as np
from pathlib import Path
from graftwork.stores import open_store
from graftwork.stores.base import RAW_DTYPES
times = []
for _ in range(int(sys.argv[2])):
    begin = time.perf_counter()
    with open_store(Path(sys.argv[1] + ".index")) as reader:
        found = {name: np.empty(spec.size, RAW_DTYPES[spec.dtype]) for name, spec in reader.specs().items()}
        for name, values in found.items():
            reader.read_into(name, 0, values)
    times.append(time.perf_counter() - begin)
    del reader, found
print(json.dumps(times))
"""

LIST = """
import os, sys
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
import tensorflow as tf
for name, shape in sorted(tf.train.load_checkpoint(sys.argv[1]).get_variable_to_shape_map().items()):
    print(name, shape)
"""


def checkpoints(given: Options) -> str:
    """Checkpoints of 1 GB in 250 tensors, written by TensorFlow: read, listed, united, averaged."""
    prefixes = [given.folder / f"{scope}.ckpt" for scope in ("a", "bb")]
    for prefix, scope in zip(prefixes, ("a", "bb"), strict=True):
        _python(WRITE, prefix, scope, TENSORS, SIZE_MB * 10**6)
    rounds = given.rounds
    reading = {name: [] for name in ("TensorFlow", "graftwork")}
    for number in range(rounds + 1):
        for name, script in (("TensorFlow", THEIRS), ("graftwork", OURS)):
            seconds = min(json.loads(_python(script, prefixes[0], 3)))
            print(f"  round {number} read, {name}: {seconds:.2f} s", flush=True)
            if number:
                reading[name].append(seconds)
    times = statistics.median(a / b for a, b in zip(*reading.values(), strict=True))
    index = prefixes[0].with_name(prefixes[0].name + ".index")
    other = prefixes[1].with_name(prefixes[1].name + ".index")
    data = [p.with_name(p.name + ".data-00000-of-00001") for p in prefixes]
    out = given.folder / "out.ckpt.index"
    listing = alternating(
        {
            "TensorFlow": lambda: process(
                [sys.executable, "-c", LIST, str(prefixes[0])], env={"CUDA_VISIBLE_DEVICES": "-1"}
            ),
            "graftwork": lambda: process([sys.executable, "-m", "graftwork", "inspect", str(index)]),
        },
        rounds,
    )
    making = alternating(
        {
            "floor": lambda: floor(data, given.folder / "floor"),
            "united": graftwork("ckpt", "merge", index, other, "-o", out),
            "averaged": graftwork("ckpt", "average", index, index, "--names", "a,b", "-o", out),
        },
        rounds,
    )
    rows = [
        f"| {name} | {middle(runs).wall:.2f} | {middle(runs).peak_mb:.0f} | {ratio(runs, making['floor']):.2f} |"
        for name, runs in making.items()
    ]
    lists = {name: middle(runs) for name, runs in listing.items()}
    return "\n".join(
        [
            "Read whole into arrays, the best of three in a process, imports not counted, CRCs compared by both:",
            f"TensorFlow (`load_checkpoint`, `get_tensor`) {statistics.median(reading['TensorFlow']):.2f} s, "
            f"graftwork {statistics.median(reading['graftwork']):.2f} s: {times:.2f} times as fast.",
            "",
            f"Listed, whole processes: TensorFlow {lists['TensorFlow'].wall:.2f} s, `graftwork inspect` {lists['graftwork'].wall:.2f} s: "
            f"{ratio(listing['TensorFlow'], listing['graftwork']):.1f} times as fast.",
            "",
            "The floor reads both data files once and writes one of their size; united is a file of twice that size.",
            "",
            "| case | wall s | peak MB | × floor |",
            "|---|---:|---:|---:|",
            *rows,
        ]
    )


def _python(script: str, *arguments: object) -> str:
    done = subprocess.run(
        [sys.executable, "-c", script, *map(str, arguments)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        sys.exit(done.stderr[-2000:])
    return done.stdout
