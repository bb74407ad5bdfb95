"""ONNX and OpenVINO with the preprocessing inside: an image as it is goes in, probabilities come out."""

import io
import json
from abc import abstractmethod
from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from fastvit.compare import largest
from fastvit.deploy.comparison import compare_pixels, compare_probabilities
from fastvit.deploy.formats.format import Format
from fastvit.deploy.formats.onnx import Onnx, onnx_of
from fastvit.deploy.formats.openvino import OpenVino
from fastvit.deploy.network import Network
from fastvit.deploy.request import Request
from fastvit.deploy.runtimes.openvino import core, read_onnx
from fastvit.deploy.runtimes.run import Run, Settings
from fastvit.deploy.runtimes.turns import Turns
from fastvit.errors import ExportError

IMAGE_NAME, PROBABILITIES = "image", "probabilities"

ImageRun = Callable[[np.ndarray], np.ndarray]  # RGB, uint8 (H, W, 3), of any size -> probabilities (classes,)


class ImageInput(Format):
    """A classifier for one RGB image at a time, uint8 (H, W, 3), of any size.

    The labels and the preprocessing are in the file's metadata, too. Any thread may run it.
    """

    axes = ()
    inside = None
    tolerance = 1e-3  # of a probability

    @abstractmethod
    def run_on_images(self, source: bytes | Path, settings: Settings) -> ImageRun:
        """What a file, or an ONNX model in memory, computes."""

    def load(self, path: Path, settings: Settings) -> Run:
        raise ExportError(f"{path} takes images as they are: predict with it, or export without --preprocessing inside")

    def dtypes(self) -> Collection[torch.dtype]:
        return (torch.float32,)  # in others the preprocessing would be wrong

    def require_settings(self, settings: Settings) -> None:
        super().require_settings(settings)
        if settings.streams:
            raise ExportError(f"{self.name} files take one image at a time: leave out streams")

    def interface(self, request: Request) -> dict[str, Any]:
        sizes = {"height": [1, None], "width": [1, None], "channels": [3, 3]}
        return {
            "input": {"name": IMAGE_NAME, "dtype": "uint8", "layout": "HWC", **sizes},
            "example": [*request.example.shape[2:], 3],
            "outputs": {PROBABILITIES: [len(request.card.labels)]},
        }

    def check(self, path: Path, request: Request) -> dict[str, Any]:
        """Compare what the network sees, and the probabilities, for pictures of odd sizes."""
        from fastvit.deploy.preprocessing_graph import preprocessing_graph

        settings = Settings()
        preprocessing = request.card.preprocessing
        graph = preprocessing_graph(preprocessing).SerializeToString()
        results = compare_pixels(self.run_on_images(graph, settings), preprocessing, request)
        differences = compare_probabilities(self.run_on_images(path, settings), request)
        worst = largest(differences)
        if not worst <= self.tolerance:
            raise ExportError(
                f"a probability that {self.runtime} computes differs from Python's by {worst:.1e}, more than "
                f"{self.tolerance:g}: nothing was written"
            )
        pairs = zip(results, differences, strict=True)
        pictures = [result | {PROBABILITIES: difference} for result, difference in pairs]
        return {"runtime": self.runtime, "tolerance": self.tolerance, "pictures": pictures}


class OnnxImage(ImageInput, Onnx):
    """One file, weights included."""

    name = "onnx_image"

    def convert(self, request: Request, path: Path) -> None:
        path.write_bytes(with_image_input(request))

    def run_on_images(self, source: bytes | Path, settings: Settings) -> ImageRun:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = settings.threads
        model = source if isinstance(source, bytes) else str(source)
        session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        return lambda image: session.run(None, {IMAGE_NAME: image})[0]


class OpenVinoImage(ImageInput, OpenVino):
    """An .xml file and the weights in a .bin file beside it.

    OpenVINO computes in float32 what Pillow computes in integers: one color in thousands is off by one of 255 levels,
    which moves a probability by up to 1e-3 in images of 32 pixels. In lower precision (INFERENCE_PRECISION_HINT) the
    preprocessing is wrong.
    """

    name = "openvino_image"
    tolerance = 5e-3

    def convert(self, request: Request, path: Path) -> None:
        import openvino

        model = read_onnx(with_image_input(request))
        for name, value in metadata(request).items():
            model.set_rt_info(value, name)
        openvino.save_model(model, path, compress_to_fp16=False)

    def run_on_images(self, source: bytes | Path, settings: Settings) -> ImageRun:
        model = core().read_model(io.BytesIO(source) if isinstance(source, bytes) else source)
        config = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": settings.threads}
        compiled, turns = core().compile_model(model, "CPU", config), Turns(1)

        def run(image: np.ndarray) -> np.ndarray:
            with turns:
                return compiled([image])[0].copy()

        return run


def with_image_input(request: Request) -> bytes:
    """An ONNX model with its preprocessing before and the probabilities behind. Raises ExportError."""
    import onnx

    from fastvit.deploy.preprocessing_graph import joined, preprocessing_graph

    card = request.card
    if card.preprocessing is None or not card.classifies:
        raise ExportError("preprocessing inside is for classifiers that have labels and a stated preprocessing")
    if len(request.example) != 1:
        raise ExportError(f"with preprocessing inside there is one image at a time, not {len(request.example)}")
    preprocessing = preprocessing_graph(card.preprocessing)
    probabilities = Network(nn.Sequential(request.network, card.probabilities(), nn.Flatten(0))).eval()
    outputs = {PROBABILITIES: (len(card.labels),)}
    plain = onnx_of(replace(request, network=probabilities, outputs=outputs))
    model = joined(preprocessing, onnx.load_from_string(plain))
    onnx.helper.set_model_props(model, metadata(request))
    return model.SerializeToString()


def metadata(request: Request) -> dict[str, str]:
    """What the file itself says, as JSON."""
    card = request.card.to_dict()
    return {name: json.dumps(card[name], ensure_ascii=False) for name in ("labels", "preprocessing")}
