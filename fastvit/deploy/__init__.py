"""From a trained network to fast inference."""

from fastvit.data.preprocessing import Preprocessing
from fastvit.deploy.card import Card
from fastvit.deploy.compile import Inference, compile_for_inference
from fastvit.deploy.engines import ENGINES
from fastvit.deploy.export import export
from fastvit.deploy.formats import FORMATS
from fastvit.deploy.load import Exported, ExportedForImages, load

__all__ = [
    "ENGINES",
    "FORMATS",
    "Card",
    "Exported",
    "ExportedForImages",
    "Inference",
    "Preprocessing",
    "compile_for_inference",
    "export",
    "load",
]
