"""A folder as timm, transformers and the Hugging Face hub take it: config.json, model.safetensors, README.md."""

import json
from pathlib import Path

import timm
from safetensors.torch import save_file
from timm.models import save_for_hf
from torch import nn

from fastvit.deploy.card import Card
from fastvit.deploy.formats.format import Format, run_of
from fastvit.deploy.network import Network
from fastvit.deploy.request import Request
from fastvit.deploy.runtimes.run import Run, Settings
from fastvit.errors import ExportError
from fastvit.variants import VARIANTS

FUSED = "fused.safetensors"


class TimmFolder(Format):
    """The network in train form, under timm's names: it can be fine-tuned further. Of a FastViT, the fused weights are
    beside it.

    Args:
        readme: the model card, in Markdown.
    """

    name = "timm"
    suffix = ".timm"
    runtime = "timm"
    axes = ()

    def __init__(self, readme: str = ""):
        self.readme = readme

    def convert(self, request: Request, path: Path) -> None:
        card = request.card
        if card.preprocessing is None or card.labels is None or card.architecture is None:
            raise ExportError("a folder for timm holds one of timm's classifiers, with labels and preprocessing")
        require_in_timm(card.architecture["name"])
        network = train_form(request.original, card)
        save_for_hf(
            network,
            path,
            model_config={"label_names": list(card.labels), "pretrained_cfg": {"tag": "", "license": card.licence}},
            data_config=data_config(card),
            safe_serialization=True,
        )
        say_once(path / "config.json")
        if card.architecture["name"] in VARIANTS:
            fused = {name: tensor.contiguous() for name, tensor in request.network.network.state_dict().items()}
            save_file(fused, path / FUSED, metadata={"format": "pt"})
        (path / "README.md").write_text(self.readme, encoding="utf-8")

    def fixed(self, path: Path) -> list[Path]:
        config = path / "config.json"
        files = [config, path / "model.safetensors"]
        architecture = config.exists() and json.loads(config.read_text(encoding="utf-8"))["architecture"]
        return files if architecture and architecture not in VARIANTS else [*files, path / FUSED]

    def load(self, path: Path, settings: Settings) -> Run:
        network = timm.create_model(f"local-dir:{path}", pretrained=True)
        return run_of(Network(network).eval().requires_grad_(False))


def require_in_timm(architecture: str) -> None:
    """Raise ExportError unless timm has the network itself: where a folder is loaded, nothing else registers it."""
    own = getattr(timm.models, architecture, None)  # also where fastvit has taken the name over
    if own is None or (architecture not in VARIANTS and timm.models.model_entrypoint(architecture) is not own):
        raise ExportError(
            f"timm itself has no {architecture}, so nobody could load a folder of it: choose a format such as onnx"
        )


def say_once(path: Path) -> None:
    """Take out of timm's configuration what it says twice: transformers hands both on, and fails."""
    config = json.loads(path.read_text(encoding="utf-8"))
    for name in ("num_classes", "in_chans", "global_pool"):
        config["model_args"].pop(name, None)
    path.write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def train_form(original: nn.Module, card: Card) -> nn.Module:
    """The network as timm builds it: with the arguments that `config.json` has to repeat."""
    network = timm.create_model(card.architecture["name"], **card.architecture["options"])
    try:
        network.load_state_dict(original.state_dict())
    except RuntimeError as error:
        raise ExportError(
            "a folder for timm holds the network in train form, and this one is fused: export it before fusing"
        ) from error
    return network


def data_config(card: Card) -> dict:
    """The preprocessing in timm's words."""
    preprocessing = card.preprocessing
    return {
        "input_size": (3, preprocessing.height, preprocessing.width),
        "crop_pct": preprocessing.crop_pct,
        "crop_mode": preprocessing.crop_mode,
        "interpolation": preprocessing.interpolation,
        "mean": preprocessing.mean,
        "std": preprocessing.std,
    }
