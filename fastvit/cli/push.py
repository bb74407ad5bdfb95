"""Upload a trained classifier to the Hugging Face hub, as timm and transformers load it.

hf auth login
fastvit push runs/flowers jane/flowers

The repository gets what `fastvit export RUN --format timm` writes: the weights, their configuration, and a model card.
"""

import argparse
from pathlib import Path
from tempfile import TemporaryDirectory

from fastvit.cli.source import tell_licence
from fastvit.errors import RunError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", help="folder or checkpoint of a run")
    parser.add_argument("repository", metavar="owner/name", help="on the hub; made unless it is there")
    parser.add_argument("--private", action="store_true", help="a repository that is made now is for its owner only")
    parser.add_argument("--message", default="Upload by fastvit", help="of the commit")


def run(arguments: argparse.Namespace) -> None:
    import torch

    from fastvit.deploy import export
    from fastvit.deploy.formats.timm_folder import TimmFolder
    from fastvit.deploy.hub import push, require_repository
    from fastvit.model_card import model_card
    from fastvit.trained import Kind, find_trained

    require_repository(arguments.repository)
    trained = find_trained(arguments.source)
    if trained.kind is not Kind.RUN:
        raise RunError(f"{arguments.source} is {trained.kind.value}: upload a run, which says how it was made")
    tell_licence(trained.licence)
    repository = arguments.repository
    kind = TimmFolder(model_card(trained, title=repository.partition("/")[2], repository=repository))
    size = trained.preprocessing
    with TemporaryDirectory() as temporary:
        folder = Path(temporary) / f"network{kind.suffix}"
        export(trained.module, folder, torch.zeros(1, 3, size.height, size.width), format=kind, card=trained.card)
        print(push(folder, repository, private=arguments.private, message=arguments.message))
