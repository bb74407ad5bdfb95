"""Upload a trained classifier to the Hugging Face hub, as timm and transformers load it.

hf auth login
fastvit push runs/flowers jane/flowers

The repository gets what `fastvit export RUN --format timm` writes: the weights, their configuration, and a model card.
"""

import argparse
from pathlib import Path
from tempfile import TemporaryDirectory


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", help="folder or checkpoint of a run")
    parser.add_argument("repository", metavar="owner/name", help="on the hub; made unless it is there")
    parser.add_argument("--private", action="store_true", help="a repository that is made now is for its owner only")
    parser.add_argument("--message", default="Upload by fastvit", help="of the commit")


def run(arguments: argparse.Namespace) -> None:
    from fastvit.cli.export import timm_folder
    from fastvit.deploy.hub import push, require_repository
    from fastvit.trained import find_trained

    require_repository(arguments.repository)
    trained = find_trained(arguments.source)
    with TemporaryDirectory() as temporary:
        folder = Path(temporary) / f"{trained.name}.timm"
        timm_folder(trained, folder, repository=arguments.repository)
        print(push(folder, arguments.repository, private=arguments.private, message=arguments.message))
