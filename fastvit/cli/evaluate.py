"""Evaluate a trained network, as trained and fused for inference, and compare the two.

fastvit evaluate runs/quickstart
fastvit evaluate runs/finetune --explain
fastvit evaluate runs/quickstart/last.pt data.root=/data/elsewhere
fastvit evaluate classification/finetune --checkpoint fastvit_sa12.pth.tar data.root=/data/imagenet
fastvit evaluate fastvit_t8.apple_in1k data.root=/data/imagenet data.image_size=320
fastvit evaluate exports/quickstart.onnx data.root=my_images
fastvit evaluate exports/segmentation_digits.onnx
fastvit evaluate robustness/all model.name=fastvit_t8.apple_in1k root=/data
torchrun --nproc-per-node 8 -m fastvit evaluate runs/fastvit_t8

Computed in the recipe's loop.precision. What is no run is evaluated in float32: classifiers on
<data.root>/val/<class>/*.jpg, exported segmenters and hands by the recipe that their file has with it.

The results go into the folder of the run, or into one in runs/evaluated; with key=value, into a folder in it of that
name, and with the same words again they are replaced.
"""

import argparse
import os
import re
from collections.abc import Sequence
from dataclasses import replace
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING

from fastvit import shipped
from fastvit.cli.source import SOURCE, add_weights, options, tell_licence
from fastvit.errors import RecipeError, RunError, require_packages
from fastvit.runtime.folders import require_writable

if TYPE_CHECKING:
    from fastvit.robustness.recipe import ModelSource
    from fastvit.runtime.processes import Processes
    from fastvit.trained import Trained
    from fastvit.training.task import Task

FORMS = ("unfused", "fused")
LONGEST = 150  # bytes of what a user said in the name of a folder, which may have 255


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", help=SOURCE)
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="in place of what the recipe says")
    parser.add_argument(
        "--form", choices=(*FORMS, "both"), help="which to evaluate (both; exported files and fused weights have one)"
    )
    parser.add_argument("--explain", action="store_true", help="show in mistakes.png where a classifier has looked")
    parser.add_argument("--output", type=Path, help="folder of the results (the run's, or one in it; else one in runs)")
    add_weights(parser)


def run(arguments: argparse.Namespace) -> None:
    require_packages("evaluating", "pydantic", "matplotlib", "sklearn", extra="train")
    from fastvit.evaluation import evaluate_forms, table
    from fastvit.runtime.allocator import keep_freed_memory
    from fastvit.runtime.device import best_device
    from fastvit.runtime.processes import process_group

    recipe = shipped.find(arguments.source)
    with process_group() as processes:
        keep_freed_memory(best_device(processes.local_rank))  # before workers start, which inherit it
        if recipe.suffix in (".yaml", ".yml") and is_of_robustness(recipe):
            evaluate_robustness(recipe, arguments, processes)
            return
        trained, task = find(arguments)
        if processes.is_main:
            tell_licence(trained.licence)
        folder = arguments.output or folder_of(trained, arguments.overrides, arguments.checkpoint)
        forms = (arguments.form,) if arguments.form in FORMS else FORMS
        result, written, notices = evaluate_forms(
            trained, task, folder, forms=forms, explain=arguments.explain, processes=processes
        )
    if result:
        print(table(result))
        print("\nwritten:", *written, sep="\n  ")
        for line in notices:
            print(line)


def is_of_robustness(recipe: Path) -> bool:
    from fastvit.config import read_file

    return recipe.is_file() and read_file(recipe).get("task") == "robustness"


def find(arguments: argparse.Namespace) -> "tuple[Trained, Task]":
    """The network that is named, and the task that says what it is evaluated on."""
    from fastvit.evaluation import task_of
    from fastvit.trained import Kind, find_trained, kind_of

    kind, said = kind_of(arguments.source), options(arguments)
    about_images_alone = kind not in (Kind.RUN, Kind.RECIPE)
    kept = [] if about_images_alone else [each for each in said.overrides if not each.startswith("output=")]
    said = replace(said, overrides=tuple(kept))  # a run keeps its folder, where its division is
    trained = find_trained(arguments.source, said)
    task = task_of(trained, arguments.overrides)
    if kind is Kind.FILE and (arguments.form or task.recipe.loop.precision != "float32"):
        raise RunError(f"{arguments.source} is {kind.value}: leave out --form and loop.precision")
    return trained, task


def folder_of(trained: "Trained", overrides: Sequence[str], checkpoint: Path | None = None) -> Path:
    """The run's own folder; of what is no run, one of its own. Results by other settings go into a folder in it."""
    from fastvit.trained import Kind

    if given := [override.partition("=")[2] for override in overrides if override.startswith("output=")]:
        return Path(given[-1]).expanduser()
    if trained.kind is not Kind.RUN:
        return Path("runs/evaluated") / as_folder(trained.source, checkpoint) / as_folder(*overrides)
    source = Path(trained.source)
    if not source.is_dir():  # a checkpoint: the run's folder has the results of its best one alone
        own = source.stem if source.suffix else f"{source.name}_evaluated"
        source = source.parent if source.name == "best.pt" else source.with_name(own)
    return source / as_folder(*overrides)


def as_folder(*words: str | Path | None) -> str:
    """What a user said, as the name of a folder. What is changed or cut for that ends in a digest of the whole."""
    said = os.fsencode(",".join(str(word) for word in words if word))
    name = re.sub(r"[^\w.=,-]+", "_", os.fsdecode(said).strip("/")).encode()[-LONGEST:].decode(errors="ignore")
    return name if name.encode() == said else f"{name}-{blake2b(said, digest_size=4).hexdigest()}"


def evaluate_robustness(path: Path, arguments: argparse.Namespace, processes: "Processes") -> None:
    """Measure in all processes, and write into the recipe's output."""
    from fastvit import robustness
    from fastvit.robustness.recipe import read_robustness_recipe

    recipe = read_robustness_recipe(path, arguments.overrides)
    if arguments.checkpoint or arguments.pretrained or arguments.random_weights or arguments.form:
        raise RecipeError("a robustness recipe says itself which model: set model.name, model.checkpoint, model.form")
    folder, figures = arguments.output or recipe.output or folder_of_robustness(path, recipe.model), []
    processes.on_main(lambda: require_writable(folder))
    for figure in robustness.measure(recipe, processes):
        figures.append(figure)
        processes.on_main(lambda: robustness.write_figures(figures, folder))
    if not processes.is_main:
        return
    summary = robustness.summarize(recipe, figures, robustness.missing_sets(recipe))
    written = robustness.write(summary, figures, folder)
    tell_licence(recipe.model.find().licence)
    print(robustness.table(summary))
    print("\nwritten:", *written, sep="\n  ")


def folder_of_robustness(path: Path, model: "ModelSource") -> Path:
    """Where the user says none: one for each recipe and network, so that none replaces the results of another."""
    return Path("runs/robustness") / path.stem / as_folder(model.name, model.checkpoint)
