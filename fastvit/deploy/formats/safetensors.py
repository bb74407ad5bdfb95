"""The weights of the fused network alone: plain tensors, no program."""

import copy
import json
from pathlib import Path

import safetensors
import timm
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from fastvit.deploy.formats.format import Format, run_of
from fastvit.deploy.request import Request
from fastvit.deploy.runtimes.run import Run, Settings
from fastvit.errors import ExportError
from fastvit.weights import load_checkpoint


class SafeTensors(Format):
    """What `fastvit.load_checkpoint` loads into a fused network. The network's name is in the file's header."""

    name = "safetensors"
    suffix = ".safetensors"
    runtime = "PyTorch"

    def convert(self, request: Request, path: Path) -> None:
        state = {name: tensor.contiguous() for name, tensor in request.network.network.state_dict().items()}
        save_file(state, path, metadata={"format": "pt", "architecture": json.dumps(request.card.architecture)})

    def verify(self, path: Path, request: Request) -> Run:
        network = copy.deepcopy(request.network.network)
        with torch.no_grad():
            for tensor in network.state_dict().values():
                tensor.zero_()
        network.load_state_dict(load_file(path))
        return _run(network)

    def load(self, path: Path, settings: Settings) -> Run:
        with safetensors.safe_open(path, "pt") as file:
            architecture = json.loads((file.metadata() or {}).get("architecture", "null"))
        if architecture is None:
            raise ExportError(f"{path} holds weights and no network: build the network, fuse it, and load them into it")
        network = timm.create_model(architecture["name"], fused=True, **architecture["options"])
        load_checkpoint(network, path)
        return _run(network)


def _run(network: nn.Module) -> Run:
    network = network.eval().to(memory_format=torch.channels_last)
    return run_of(lambda images: network(images.contiguous(memory_format=torch.channels_last)))
