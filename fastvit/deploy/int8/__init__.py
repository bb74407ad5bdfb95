"""Post-training static quantisation to int8, calibrated and validated on the user's images."""

from fastvit.deploy.int8.images import Samples, split
from fastvit.deploy.int8.quantize import QUANTIZERS, quantize

__all__ = ["QUANTIZERS", "Samples", "quantize", "split"]
