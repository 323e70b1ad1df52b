"""Writes the node tests that the `onnx` package carries to a directory; run by `cargo xtask onnx`.

    python onnx_node_tests.py OUT OPERATOR,OPERATOR,...

A test concerns us if all its operators are among the given ones; the others are counted. Each test is a directory
with model.onnx (at the opset that the package made it for, but at least 9, the oldest that is supported), input_N.pb and
output_N.pb (TensorProto, named as in the model); index.json lists them.
"""

import json
import pathlib
import sys
import warnings

warnings.simplefilter("ignore")  # the package's own cases divide by zero on purpose

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper
from onnx.backend.test.case.node import collect_testcases


def operators(graph):
    """All operators of a graph and of the graphs in its attributes; those of other domains with their domain."""
    for node in graph.node:
        yield node.op_type if node.domain in ("", "ai.onnx") else f"{node.domain}.{node.op_type}"
        for attribute in node.attribute:
            for inner in [attribute.g, *attribute.graphs]:
                yield from operators(inner)


def tensor(value, name):
    """A value of a data set as TensorProto, or None if it is a sequence, an optional or a map."""
    if isinstance(value, TensorProto):
        proto = TensorProto()
        proto.CopyFrom(value)
        proto.name = name
        return proto
    if isinstance(value, (list, dict, tuple)) or value is None:
        return None
    array = np.asarray(value)
    if array.dtype == object:
        return onnx.helper.make_tensor(name, TensorProto.STRING, array.shape, [str(v).encode() for v in array.flat])
    return numpy_helper.from_array(array, name)


def raise_opset(model, oldest=9):
    """Opsets below the oldest supported one become that, if no operator changed in between."""
    for opset in model.opset_import:
        if opset.domain not in ("", "ai.onnx") or opset.version >= oldest:
            continue
        since = lambda node, version: onnx.defs.get_schema(node.op_type, version, node.domain).since_version
        if all(since(node, opset.version) == since(node, oldest) for node in model.graph.node):
            opset.version = oldest


def write(directory, case):
    """One test; returns its entry in the index, or None if a value is not a tensor."""
    graph = case.model.graph
    inputs, outputs = case.data_sets[0]
    files = {}
    for kind, values, infos in (("input", inputs, graph.input), ("output", outputs, graph.output)):
        for number, (value, info) in enumerate(zip(values, infos, strict=True)):
            proto = tensor(value, info.name)
            if proto is None:
                return None
            files[f"{kind}_{number}.pb"] = proto
    directory.mkdir(parents=True, exist_ok=True)
    raise_opset(case.model)
    onnx.save(case.model, directory / "model.onnx")
    entries = {"input": [], "output": []}
    for file, proto in files.items():
        (directory / file).write_bytes(proto.SerializeToString())
        entries[file.split("_")[0]].append(
            {
                "name": proto.name,
                "file": file,
                "type": TensorProto.DataType.Name(proto.data_type).lower(),
                "shape": list(proto.dims),
            }
        )
    return {
        "name": case.name,
        "operators": sorted(set(operators(graph))),
        "nodes": len(graph.node),
        "opset": max(i.version for i in case.model.opset_import if i.domain in ("", "ai.onnx")),
        "rtol": case.rtol,
        "atol": case.atol,
        "inputs": entries["input"],
        "outputs": entries["output"],
    }


def main():
    out = pathlib.Path(sys.argv[1])
    claimed = set(sys.argv[2].split(","))
    cases = {case.name: case for case in collect_testcases(None)}
    tests, others, not_tensors = [], 0, 0
    for name in sorted(cases):
        if not set(operators(cases[name].model.graph)) <= claimed:
            others += 1
            continue
        entry = write(out / name, cases[name])
        if entry is None:
            not_tensors += 1
        else:
            tests.append(entry)
    index = {"onnx": onnx.__version__, "tests": tests, "others": others, "not_tensors": not_tensors}
    (out / "index.json").write_text(json.dumps(index, indent=1))


main()
