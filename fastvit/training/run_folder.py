"""The output folder of a run: what lies where."""

import json
import shutil
from pathlib import Path

import yaml

from fastvit.errors import RunError
from fastvit.training.environment import environment
from fastvit.training.recipe import Recipe


class RunFolder:
    """Paths of everything that a run writes.

    recipe.yaml       the complete recipe, defaults and overrides included
    environment.json  versions and hardware
    last.pt, best.pt  checkpoints: to resume from, to use
    log.csv           one line per epoch
    curve.png         loss and metric over the epochs
    tensorboard/      the same for TensorBoard
    """

    def __init__(self, path: Path):
        self.path = path
        self.recipe = path / "recipe.yaml"
        self.environment = path / "environment.json"
        self.last = path / "last.pt"
        self.best = path / "best.pt"
        self.log = path / "log.csv"
        self.curve = path / "curve.png"
        self.tensorboard = path / "tensorboard"

    def require_unused(self) -> None:
        """Refuse to mix two runs in one folder."""
        if self.path.exists() and not self.path.is_dir():
            raise RunError(f"output {self.path} is a file, not a folder")
        if self.last.exists():
            raise RunError(
                f"{self.path} already holds a run: continue it with --resume {self.path}, or choose another output"
            )

    def create(self, recipe: Recipe) -> None:
        """Make the folder, and write what describes the run."""
        self.path.mkdir(parents=True, exist_ok=True)
        self.recipe.write_text(yaml.safe_dump(recipe.to_dict(), sort_keys=False), encoding="utf-8")
        self.environment.write_text(json.dumps(environment(), indent=2) + "\n", encoding="utf-8")

    def remove_unless_saved(self) -> None:
        """Take back what `create` and the log have written, if no checkpoint has followed."""
        if self.last.exists():
            return
        for path in (self.recipe, self.environment):
            path.unlink(missing_ok=True)
        shutil.rmtree(self.tensorboard, ignore_errors=True)
        if not any(self.path.iterdir()):
            self.path.rmdir()
