"""The engines' side of `cargo xtask peers --int8`: ONNX Runtime's own quantizer on a network of floats.

    peers_quantize.py FLOATS.onnx INT8.onnx IMAGES.f32 N C H W

Batch normalizations are folded first; activations are unsigned bytes, weights signed ones, a scale for each output channel, calibrated on the
images (little-endian 32-bit floats) from smallest to largest value.
"""

import sys
import tempfile
from pathlib import Path

import numpy as np
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process


class Images(CalibrationDataReader):
    def __init__(self, name, images):
        self.batches = iter([{name: images}])

    def get_next(self):
        return next(self.batches, None)


def main(floats, int8, images, *shape):
    import onnx

    name = onnx.load(floats, load_external_data=False).graph.input[0].name
    values = np.fromfile(images, dtype="<f4").reshape([int(n) for n in shape])
    with tempfile.TemporaryDirectory() as directory:
        folded = str(Path(directory) / "folded.onnx")
        quant_pre_process(floats, folded, skip_symbolic_shape=True)
        quantize_static(
            folded,
            int8,
            Images(name, values),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )


main(*sys.argv[1:])
