"""From a trained network to fast inference."""

from fastvit.data.preprocessing import Preprocessing
from fastvit.deploy.card import Card
from fastvit.deploy.compile import Inference, compile_for_inference
from fastvit.deploy.engines import ENGINES
from fastvit.deploy.export import export
from fastvit.deploy.float16 import float16_error, overflowing_layers
from fastvit.deploy.formats import FORMATS
from fastvit.deploy.load import Exported, ExportedForImages, load
from fastvit.deploy.ranges import Range, measure_ranges

__all__ = [
    "ENGINES",
    "FORMATS",
    "Card",
    "Exported",
    "ExportedForImages",
    "Inference",
    "Preprocessing",
    "Range",
    "compile_for_inference",
    "export",
    "float16_error",
    "load",
    "measure_ranges",
    "overflowing_layers",
]
