"""What the figures of a robustness evaluation come to: tables, files, a picture."""

import json
from collections.abc import Sequence
from dataclasses import astuple, fields
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING, Any

from fastvit.errors import RunError
from fastvit.files import write_table
from fastvit.robustness.corruptions import CORRUPTIONS, SEVERITIES, corruption_errors
from fastvit.robustness.evaluation import Figure
from fastvit.robustness.recipe import RobustnessRecipe
from fastvit.runtime.environment import environment

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Picture


def summarize(recipe: RobustnessRecipe, figures: Sequence[Figure], missing: Sequence[str]) -> dict[str, Any]:
    """Everything, ready for JSON: for each set its top-1, or by corruption and severity, with what follows from it."""
    sets = {}
    for name, config in recipe.sets.items():
        own = [figure for figure in figures if figure.set == name]
        if not own:
            continue
        plain = [figure for figure in own if figure.corruption is None]
        by_corruption = {
            corruption: {figure.severity: figure.top1 for figure in own if figure.corruption == corruption}
            for corruption in config.corruptions
            if any(figure.corruption == corruption for figure in own)
        }
        first = own[0]
        result: dict[str, Any] = {
            "samples": first.samples,
            "image_size": first.image_size,
            "crop_pct": first.crop_pct,
        }
        if plain:
            result["top1"] = plain[0].top1
        if config.expected and recipe.model.name in config.expected:
            result["expected_top1"] = config.expected[recipe.model.name]
            result["expected_crop_pct"] = config.expected_crop_pct.get(recipe.model.name, first.crop_pct)
        if by_corruption:
            result["corruptions"] = by_corruption
            result["corrupted_top1"] = mean(mean(each.values()) for each in by_corruption.values())
        if config.kind == "imagenet_c":
            if set(config.severities) == set(SEVERITIES):  # which AlexNet's errors are the mean of
                result["corruption_errors"] = errors = corruption_errors(by_corruption)
                if set(errors) == set(CORRUPTIONS):
                    result["mce"] = mean(errors.values())
        elif by_corruption:
            result["relative_robustness"] = 100 * result["corrupted_top1"] / result["top1"] if result["top1"] else 0.0
        sets[name] = result
    return {
        "sets": sets,
        "missing": list(missing),
        "recipe": recipe.model_dump(mode="json"),
        "environment": environment(),
    }


def table(summary: dict[str, Any]) -> str:
    """For people."""
    lines = []
    for name, result in summary["sets"].items():
        crop, other = result["crop_pct"], result.get("expected_crop_pct")
        geometry = f"{result['image_size']} px, " + (f"crop {crop:g}" if crop else "not resized")
        lines.append(f"{name} ({result['samples']:,} images; {geometry})")
        published = "published top-1, %" if other in (None, crop) else f"published top-1 at crop {other:g}, %"
        lines += [
            f"  {label:<34}{result[key]:>8.2f}"
            for key, label in (
                ("top1", "top-1, %"),
                ("expected_top1", published),
                ("corrupted_top1", "mean top-1 under corruption, %"),
                ("relative_robustness", "of the top-1 without, %"),
                ("mce", "mean corruption error (AlexNet: 100)"),
            )
            if key in result
        ]
        for corruption, by_severity in result.get("corruptions", {}).items():
            values = "".join(f"{value:>7.1f}" for value in by_severity.values())
            error = f"   CE {result['corruption_errors'][corruption]:.1f}" if "corruption_errors" in result else ""
            lines.append(f"    {corruption:<20}{values}{error}")
    lines += [f"missing: {name}" for name in summary["missing"]]
    return "\n".join(lines)


def write(summary: dict[str, Any], figures: Sequence[Figure], folder: Path) -> list[Path]:
    """robustness.json, robustness.csv (a line for each figure), and robustness.png if there are corruptions."""
    paths = [folder / "robustness.json", write_figures(figures, folder)]
    paths[0].write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    corrupted = {name: each for name, each in summary["sets"].items() if "corruptions" in each}
    if corrupted:
        paths.append(folder / "robustness.png")
        _picture(corrupted).savefig(paths[-1], dpi=120)
    return paths


def write_figures(figures: Sequence[Figure], folder: Path) -> Path:
    """robustness.csv, also while the rest is being measured: hours of it are not lost if something fails."""
    path = folder / "robustness.csv"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_table(path, [field.name for field in fields(Figure)], map(astuple, figures))
    except OSError as error:
        raise RunError(f"{path} cannot be written ({error}): set output to another folder") from error
    return path


def _picture(sets: dict[str, dict[str, Any]]) -> "Picture":
    """A panel for each set: a group of bars for each corruption, a bar for each severity."""
    from matplotlib import colormaps
    from matplotlib.figure import Figure as Picture

    picture = Picture(figsize=(12, 3.8 * len(sets)), layout="constrained")
    for axes, (name, result) in zip(picture.subplots(len(sets), 1, squeeze=False)[:, 0], sets.items(), strict=True):
        severities = sorted({severity for each in result["corruptions"].values() for severity in each})
        width = 0.8 / len(severities)
        for number, severity in enumerate(severities):
            heights = [each.get(severity, 0.0) for each in result["corruptions"].values()]
            places = [index + width * (number - (len(severities) - 1) / 2) for index in range(len(heights))]
            axes.bar(places, heights, width, color=colormaps["viridis"](severity / 5), label=f"severity {severity}")
        if "top1" in result:
            axes.axhline(result["top1"], color="black", linestyle="--", linewidth=1, label="without corruption")
        labels = [corruption.replace("_", " ") for corruption in result["corruptions"]]
        axes.set_xticks(range(len(labels)), labels, rotation=30, ha="right")
        axes.set_ylabel("top-1, %")
        axes.set_title(name)
        axes.legend(fontsize=8, ncols=2)
    return picture
