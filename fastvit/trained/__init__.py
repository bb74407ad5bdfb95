"""The one way to name a trained network: for every command, for recipes that need one, and for notebooks::

    runs/quickstart, runs/quickstart/last.pt     a run, or one of its checkpoints
    classification/finetune, my_recipe.yaml      a recipe, with weights
    fastvit_t8.apple_in1k, resnet18              a network of timm's: by its tag, or with weights
    hf-hub:owner/name, local-dir:folder          what timm loads from the hub, or from a folder of the same files
    open_clip:MobileCLIP2-S0.dfndr2b             the image tower of a network of open_clip's, with weights
    exports/quickstart.onnx                      an exported file, with its JSON file beside it

Weights, for a recipe or a network of timm's, are those of a file, those of the hub, or random ones.
"""

from fastvit.trained.find import find_trained, load_trained
from fastvit.trained.name import Kind, Options, kind_of
from fastvit.trained.network import Trained

__all__ = ["Kind", "Options", "Trained", "find_trained", "kind_of", "load_trained"]
