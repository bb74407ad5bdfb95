"""From a trained network to fast inference."""

from fastvit.data.preprocessing import Preprocessing
from fastvit.deploy.compile import compile_for_inference
from fastvit.deploy.export import export
from fastvit.deploy.formats import FORMATS
from fastvit.deploy.load import Exported, load

__all__ = ["FORMATS", "Exported", "Preprocessing", "compile_for_inference", "export", "load"]
