"""From a trained network to fast inference."""

from fastvit.deploy.compile import compile_for_inference

__all__ = ["compile_for_inference"]
