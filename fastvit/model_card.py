"""The model card of a trained classifier: what it is, from which data, how good, whose licence, how to use it."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from timm.models import get_pretrained_cfg

import fastvit
from fastvit.deploy.formats.timm_folder import require_in_timm
from fastvit.errors import ExportError
from fastvit.trained import Kind, Trained
from fastvit.trained.licence import CONDITIONS
from fastvit.trained.of_run import checkpoint_of
from fastvit.training.checkpoint import read_checkpoint
from fastvit.variants import VARIANTS

MOST_LABELS = 20
SEE_THERE = "see-there"  # a licence that timm does not name

RESIZED = {  # by crop_mode
    "center": "The shorter side of an image is",
    "border": "The longer side of an image, which is padded with the mean color, is",
    "squash": "Both sides of an image are",
}

USE = """## Use

In timm, where it can be fine-tuned further:

```python
model = timm.create_model("{place}", pretrained=True).eval()
transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
probabilities = model(transform(image)[None]).softmax(dim=1)  # image: of Pillow, RGB
```

In transformers, with timm installed:

```python
pipeline("image-classification", model="{repository}")("photo.jpg")
```
"""

USE_FUSED = """
With fastvit, fused, which gives the same answers faster:

```python
import fastvit
model = fastvit.reparameterize_model(timm.create_model("{place}", pretrained=True))
```

`fused.safetensors` has the fused weights alone: `fastvit.load_checkpoint` loads them into
`timm.create_model("{architecture}", num_classes={classes}, fused=True)`.
"""


def model_card(trained: Trained, *, title: str, repository: str | None = None) -> str:
    """Markdown with the header that the hub reads.

    Args:
        repository: owner/name on the hub; None for a folder that is not there.

    Raises:
        ExportError: it is no classifier of timm's, or of a network that timm itself does not have.
    """
    if trained.does != "classification" or trained.architecture is None:
        raise ExportError(f"{trained.source} is no classifier, which is what timm's folders and the hub get from here")
    require_in_timm(trained.architecture["name"])
    recipe = trained.task.recipe if trained.kind is Kind.RUN else None  # a recipe alone did not train it
    metrics = _metrics_of(trained)
    start = _start(recipe)
    parts = [_header(trained.licence, start), f"# {title}", _what(trained)]
    if recipe:
        parts += [f"## Data\n\n{_data(recipe)}"]
        if metrics:
            parts += [f"## How good\n\n{_metrics(trained, metrics)}"]
    parts += [f"## Licence\n\n{_licence(recipe, trained.licence, start)}"]
    place = f"hf-hub:{repository}" if repository else "local-dir:FOLDER"
    use = (USE + USE_FUSED if trained.architecture["name"] in VARIANTS else USE).format(
        place=place,
        repository=repository or "FOLDER",
        architecture=trained.architecture["name"],
        classes=len(trained.labels),
    )
    return "\n\n".join(parts) + "\n\n" + use


def _metrics_of(trained: Trained) -> Mapping[str, Any]:
    """What the training loop measured with the weights of a run; nothing of other networks."""
    if trained.kind is not Kind.RUN:
        return {}
    checkpoint = read_checkpoint(checkpoint_of(trained.source))
    metrics = checkpoint.get("metrics", {})
    measured = checkpoint.get("step") in (None, metrics.get("step"))  # not what was saved within an epoch
    return metrics if measured else {}


def _header(licence: str, start: Mapping[str, str] | None) -> str:
    lines = ["library_name: timm", "pipeline_tag: image-classification"]
    if licence or start:
        lines += ["license: other", f"license_name: {licence or SEE_THERE}"]
    if start:
        lines += [f"license_link: {start['link']}"]
    lines += ["tags:", *(f"- {tag}" for tag in ("image-classification", "timm", "transformers", "fastvit"))]
    return "\n".join(["---", *lines, "---"])


def _what(trained: Trained) -> str:
    architecture, labels = trained.architecture["name"], trained.labels
    named = ", ".join(labels[:MOST_LABELS]) + (", ..." if len(labels) > MOST_LABELS else "")
    size = trained.preprocessing
    is_run = trained.kind is Kind.RUN
    origin = f"Trained with fastvit {fastvit.__version__}" if is_run else f"Weights: {trained.weights}"
    paper = " ([FastViT](https://arxiv.org/abs/2303.14189))" if architecture in VARIANTS else ""
    return (
        f"`{architecture}`{paper}, which tells {len(labels)} classes apart in "
        f"images of {size.height}x{size.width} pixels: {named}. {origin}."
    )


def _data(recipe: Any) -> str:
    data = recipe.data
    if data.dataset == "digits":
        return "The handwritten digits of scikit-learn."
    name = f"`{Path(data.root).name}`, " if data.root else ""
    return f"Images of {name}read as `{data.dataset}`. (Say here what they are and where they come from.)"


def _metrics(trained: Trained, metrics: Mapping[str, Any]) -> str:
    rows = [("top-1", metrics.get("val_top1"), " %"), ("top-5", metrics.get("val_top5"), " %")]
    rows += [("loss", metrics.get("val_loss"), "")]
    table = [f"| {name} | {value:.4g}{unit} |" for name, value, unit in rows if value is not None]
    size = trained.preprocessing
    recipe: Any = trained.task.recipe
    side = math.floor(size.height / size.crop_pct)
    samples, epoch = metrics.get("val_samples"), metrics.get("epoch")
    chosen = ", chosen as the best one on them" if checkpoint_of(trained.source).name == "best.pt" else ""
    return "\n".join(
        [
            "| metric | value |",
            "|---|---|",
            *table,
            "",
            f"On {samples} images of the split `{recipe.data.val_split}`, which were not trained on, by the weights of "
            f"epoch {epoch}{chosen}. {RESIZED[size.crop_mode]} resized to {side} "
            f"pixels ({size.interpolation}), and the center of {size.height}x{size.width} taken.",
        ]
    )


def _licence(recipe: Any, licence: str, start: Mapping[str, str] | None) -> str:
    """Of weights, what is known. Without a recipe they were not trained here."""
    if recipe is None:
        named = f" ({licence})" if licence else ""
        return f"These weights come from elsewhere: read their licence{named} there before you publish them."
    if start:
        return (
            f"Fine-tuned from [{start['name']}]({start['link']}), whose licence ({licence or SEE_THERE}) applies to "
            "these weights, too: read it there."
        )
    if recipe.model.checkpoint:
        apples = f" Apple's weights of this network have {licence}: {CONDITIONS[licence]}." if licence else ""
        return (
            f"Fine-tuned from the file `{Path(recipe.model.checkpoint).name}`, whose licence applies to these weights, "
            f"too.{apples} (Say here where it is from.)"
        )
    return "Trained from random weights. (Choose a licence, and state it in the header of this card.)"


def _start(recipe: Any) -> dict[str, str] | None:
    """Name and address of the hub's weights that the training started from."""
    if recipe is None or not recipe.model.pretrained:
        return None
    config = get_pretrained_cfg(recipe.model.name)
    name = f"{config.architecture}.{config.tag}"
    return {"name": name, "link": f"https://huggingface.co/{config.hf_hub_id or f'timm/{name}'}"}
