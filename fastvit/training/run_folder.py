"""The output folder of a run: what lies where."""

import json
import shutil
from pathlib import Path

import yaml

from fastvit.errors import RunError
from fastvit.runtime.environment import environment
from fastvit.runtime.folders import require_writable
from fastvit.training.recipe import Recipe


class RunFolder:
    """Paths of everything that a run writes.

    recipe.yaml       the complete recipe, defaults and overrides included
    environment.json  versions and hardware
    split.csv         which images are to train and to validate on, where they are a list
    last.pt, best.pt  checkpoints: to resume from, to use
    previous.pt       what last.pt was before
    log.csv           one line per epoch
    curve.png         loss and metric over the epochs
    tensorboard/      the same for TensorBoard
    wandb/            the same for Weights & Biases, if the recipe asks for it
    """

    def __init__(self, path: Path):
        self.path = path
        self.recipe = path / "recipe.yaml"
        self.environment = path / "environment.json"
        self.split = path / "split.csv"
        self.last = path / "last.pt"
        self.previous = path / "previous.pt"
        self.best = path / "best.pt"
        self.log = path / "log.csv"
        self.curve = path / "curve.png"
        self.tensorboard = path / "tensorboard"
        self.wandb = path / "wandb"

    def require_unused(self) -> None:
        """Refuse to mix a run with another or with files of the user's, and to train what cannot be written."""
        if self.last.exists() or self.previous.exists():
            raise RunError(
                f"{self.path} already holds a run: continue it with --resume {self.path}, or choose another output"
            )
        require_writable(self.path)
        if self.path.exists() and any(self.path.iterdir()):
            names = sorted(path.name for path in self.path.iterdir())
            raise RunError(f"output {self.path} is not empty, it holds {', '.join(names[:3])}: choose another output")

    def create(self) -> None:
        """Make the folder for a new run, which no other may take from then on."""
        self.path.mkdir(parents=True, exist_ok=True)
        try:
            self.recipe.touch(exist_ok=False)
        except FileExistsError as error:
            raise RunError(f"another run has just begun in {self.path}: choose another output") from error

    def describe(self, recipe: Recipe) -> None:
        """Write the complete recipe and what it runs on."""
        self.recipe.write_text(yaml.safe_dump(recipe.to_dict(), sort_keys=False), encoding="utf-8")
        self.environment.write_text(json.dumps(environment(), indent=2) + "\n", encoding="utf-8")

    def remove_unless_saved(self) -> None:
        """Take back what a new run has written, if no checkpoint has followed."""
        if self.last.exists() or self.previous.exists():
            return
        for path in (self.recipe, self.environment, self.split):
            path.unlink(missing_ok=True)
        for folder in (self.tensorboard, self.wandb):
            shutil.rmtree(folder, ignore_errors=True)
        if not any(self.path.iterdir()):
            self.path.rmdir()
