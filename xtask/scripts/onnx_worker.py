"""The other side of `cargo xtask onnx`: ONNX Runtime and the standard's checker, told what to do line by line.

Says {"onnx": version, "onnxruntime": version} when it is ready. Then each line of its input is a JSON object with "do", and is answered by
one line: {"ok": ...} or {"error": "..."}. Tensors travel in files, as little-endian 32-bit floats. It ends with its input.

    {"do": "check", "model": PATH}                                       -> null, if onnx.checker (full_check) accepts the file
    {"do": "run", "model": PATH, "input": PATH, "shape": [n, c, h, w], "output": PATH, "optimize": true}
                                                                         -> shape of the first output, written to "output"
    {"do": "time", "model": PATH, "times": 3}                            -> milliseconds of creating a session, each time
    {"do": "images", "npz": PATH, "pixels": PATH, "labels": PATH, "mean": [..], "std": [..], "from": 0, "to": 10000}
                                                                         -> shape [n, c, h, w]; x_test (u8, n h w c) normalized, y_test
"""

import json
import os
import sys
import time

import numpy as np
import onnx
import onnxruntime

sessions = {}


def session(model, optimize=True):
    """The session of a model; the last one is kept, while its file stays the same."""
    state = os.stat(model)
    key = (model, state.st_mtime_ns, state.st_ino, optimize)
    if key not in sessions:
        sessions.clear()
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        if not optimize:
            options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        made = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        sessions[key] = made
    return sessions[key]


def check(model):
    onnx.checker.check_model(model, full_check=True)


def run(model, input, shape, output, optimize=True):
    made = session(model, optimize)
    images = np.fromfile(input, dtype="<f4").reshape(shape)
    result = made.run(None, {made.get_inputs()[0].name: images})[0]
    result.astype("<f4").tofile(output)
    return list(result.shape)


def create(model, times):
    taken = []
    for _ in range(times):
        sessions.clear()
        start = time.perf_counter()
        session(model)
        taken.append((time.perf_counter() - start) * 1e3)
    sessions.clear()
    return taken


def images(npz, pixels, labels, mean, std, **part):
    with np.load(npz) as arrays:
        x = arrays["x_test"][part["from"] : part["to"]]
        y = arrays["y_test"][part["from"] : part["to"]]
    x = x.astype(np.float32) / np.float32(255)
    x = (x - np.array(mean, np.float32)) / np.array(std, np.float32)
    x = np.ascontiguousarray(x.transpose(0, 3, 1, 2))
    x.astype("<f4").tofile(pixels)
    y.reshape(-1).astype("<f4").tofile(labels)
    return list(x.shape)


DO = {"check": check, "run": run, "time": create, "images": images}


def main():
    # models and libraries may print; the answers go where nothing else writes
    answers = sys.stdout
    sys.stdout = sys.stderr
    say = lambda answer: print(json.dumps(answer), file=answers, flush=True)
    say({"onnx": onnx.__version__, "onnxruntime": onnxruntime.__version__})
    for line in sys.stdin:
        order = json.loads(line)
        try:
            say({"ok": DO[order.pop("do")](**order)})
        except Exception as error:  # whatever went wrong, the other side decides what it means
            say({"error": f"{type(error).__name__}: {error}"})


main()
