"""The other side of `cargo xtask peers`: one inference engine with one network, told what to do line by line.

    peers_worker.py onnxruntime|openvino

Says one line when the engine is imported, {"engine": .., "version": .., "bare": BYTES}, or {"error": ...} if it cannot be. Then each line of its input is a JSON object with
"do", and is answered by one line: {"ok": ...} or {"error": "..."}. Tensors travel in files, as little-endian 32-bit floats. It ends with its
input. `xtask/peers` speaks the same for engines in Rust. Sizes are the high-water mark of the resident set, null where the system
does not tell.

    {"do": "load", "model": PATH, "shape": [n, c, h, w], "input": PATH, "output": PATH, "threads": 2}
        -> {"load_ns": NS}; one run on the input, whose first output is written to "output"
    {"do": "run", "times": K}
        -> {"ns": [K times], "settle_ns": NS}; one run that does not count, K that do, then it waits until its own threads rest:
           engines let them spin for a while after a run, which would slow down whoever runs next. "settle_ns" is null if they
           did not come to rest in SETTLE_AT_MOST.
    {"do": "memory", "times": K}
        -> {"peak": BYTES, "running": BYTES}; after K runs: the mark since the start, and the mark of these runs alone
"""

import json
import sys
import time

import numpy as np

SETTLE_AT_MOST = 3_000_000_000  # ns
WINDOW = 0.01  # s; the system counts the time of running threads once in a tick, which may be as long as this
RESTING = 0.05  # of a core, within a window


class OnnxRuntime:
    def __init__(self):
        import onnxruntime

        self.engine, self.version = onnxruntime, onnxruntime.__version__

    def load(self, model, shape, threads):
        options = self.engine.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = threads
        # a batch size that is known lets the engine plan as well as we do
        options.add_free_dimension_override_by_name("batch", shape[0])
        self.session = self.engine.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        self.name = self.session.get_inputs()[0].name

    def runner(self, images):
        session, feed = self.session, {self.name: images}
        return lambda: session.run(None, feed)[0]


class OpenVino:
    def __init__(self):
        import openvino

        self.engine, self.version = openvino, openvino.__version__.split("-")[0]

    def load(self, model, shape, threads):
        core = self.engine.Core()
        network = core.read_model(model)
        network.reshape(shape)
        settings = {
            "INFERENCE_NUM_THREADS": threads,
            "PERFORMANCE_HINT": "LATENCY",
            # on some processors the default is bfloat16
            "INFERENCE_PRECISION_HINT": "f32",
        }
        self.request = core.compile_model(network, "CPU", settings).create_infer_request()

    def runner(self, images):
        self.request.set_input_tensor(self.engine.Tensor(images, shared_memory=True))
        request = self.request
        return lambda: request.infer(share_outputs=True)[0]


ENGINES = {"onnxruntime": OnnxRuntime, "openvino": OpenVino}


def high_water():
    """VmHWM in bytes, or None."""
    try:
        with open("/proc/self/status") as status:
            return next((int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM:")), None)
    except OSError:
        return None


def reset_high_water():
    """Sets the mark back to what is resident now; False where that is not allowed."""
    try:
        with open("/proc/self/clear_refs", "w") as marks:
            marks.write("5")
        return True
    except OSError:
        return False


def settle():
    """Waits until the threads of this process rest, and returns how long that took; None if they do not."""
    start = time.perf_counter_ns()
    while time.perf_counter_ns() - start < SETTLE_AT_MOST:
        used, begin = time.process_time_ns(), time.perf_counter_ns()
        time.sleep(WINDOW)
        if time.process_time_ns() - used < RESTING * (time.perf_counter_ns() - begin):
            return time.perf_counter_ns() - start
    return None


class Worker:
    def __init__(self, engine):
        self.engine, self.once = engine, None

    def load(self, model, shape, input, output, threads):
        images = np.fromfile(input, dtype="<f4").reshape(shape)
        start = time.perf_counter_ns()
        self.engine.load(model, shape, threads)
        load_ns = time.perf_counter_ns() - start
        self.images, self.once = images, self.engine.runner(images)
        np.ascontiguousarray(self.once(), dtype="<f4").tofile(output)
        return {"load_ns": load_ns}

    def run(self, times):
        once, taken = self.once, []
        once()
        for _ in range(times):
            start = time.perf_counter_ns()
            once()
            taken.append(time.perf_counter_ns() - start)
        return {"ns": taken, "settle_ns": settle()}

    def memory(self, times):
        peak = high_water()
        apart = reset_high_water()
        for _ in range(times):
            self.once()
        running = high_water() if apart else None
        return {"peak": None if peak is None else max(peak, high_water()), "running": running}


def main():
    # engines may print; the answers go where nothing else writes
    answers = sys.stdout
    sys.stdout = sys.stderr
    say = lambda answer: print(json.dumps(answer), file=answers, flush=True)
    name = sys.argv[1]
    try:
        engine = ENGINES[name]()
    except ImportError as error:
        say({"error": str(error)})
        return
    worker = Worker(engine)
    say({"engine": name, "version": engine.version, "bare": high_water()})
    do = {"load": worker.load, "run": worker.run, "memory": worker.memory}
    for line in sys.stdin:
        order = json.loads(line)
        try:
            say({"ok": do[order.pop("do")](**order)})
        except Exception as error:  # whatever went wrong, the other side decides what it means
            say({"error": f"{type(error).__name__}: {error}"})


main()
