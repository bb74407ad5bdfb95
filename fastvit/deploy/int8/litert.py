"""int8 for LiteRT, by the AI Edge quantizer."""

import re
from collections.abc import Collection
from pathlib import Path
from tempfile import TemporaryDirectory

from torch import Tensor

from fastvit.deploy.formats.litert import LiteRt
from fastvit.deploy.int8.engines import Quantizer
from fastvit.deploy.request import INPUT_NAME, Request
from fastvit.deploy.runtimes.run import as_float32


class AiEdge(Quantizer):
    """Everything between input and output, activations int8, so that a delegate gets one piece."""

    format = "litert"
    method = "AI Edge quantizer, static"
    packages = {"ai-edge-quantizer": "ai_edge_quantizer"}  # noqa: RUF012

    def quantize(self, request: Request, images: Tensor, in_float: Collection[str], path: Path) -> None:
        from ai_edge_quantizer import qtyping, quantizer

        with TemporaryDirectory() as folder:
            source = Path(folder) / "network.tflite"
            LiteRt().convert(request, source)
            tool = quantizer.Quantizer(source)
            operations = qtyping.TFLOperationName
            tool.add_static_config(".*", operations.ALL_SUPPORTED, activation_num_bits=8, weight_num_bits=8)
            stays_float = [(".*", operations.INPUT), (".*", operations.OUTPUT)]
            stays_float += [(tensors_of(layer), operations.ALL_SUPPORTED) for layer in in_float]
            for pattern, operation in stays_float:
                tool.update_quantization_recipe(pattern, operation, algorithm_key="no_quantize")
            result = tool.quantize(ranges(source, images), enable_progress_bar=False, enable_progress_report=False)
        path.unlink(missing_ok=True)  # of the try before
        result.export_model(path)


def ranges(source: Path, images: Tensor) -> dict:
    """The smallest and the largest value of each tensor over all images.

    The tool's own calibration takes a moving average, in which the last images count for most.
    """
    from ai_edge_quantizer import calibrator
    from ai_edge_quantizer.utils.qsv_utils import min_max_update

    mode = calibrator.CalibrationMode.CALIBRATION
    interpreter = calibrator.CalibrationInterpreter(str(source), mode, qsv_update_func=min_max_update)
    run = interpreter.get_signature_runner()
    for image in images.split(1):
        run(**{INPUT_NAME: as_float32(image.permute(0, 2, 3, 1))})
    return interpreter.get_calibration_results()


def tensors_of(layer: str) -> str:
    """A pattern of the names that a layer's tensors have: `a.b` is in `.../Sequential_a/torch.nn...Conv2d_b;2`."""
    return ".*" + "/".join(rf"[^/;]*_{re.escape(part)}" for part in layer.split(".")) + ";.*"
