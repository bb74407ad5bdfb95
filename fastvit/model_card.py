"""The model card of a trained classifier: what it is, from which data, how good, whose licence, how to use it."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from timm.models import get_pretrained_cfg

import fastvit
from fastvit.errors import ExportError
from fastvit.trained import Kind, Trained
from fastvit.training.checkpoint import read_checkpoint

MOST_LABELS = 20

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
        ExportError: it is no classifier of timm's.
    """
    if trained.does != "classification" or trained.architecture is None:
        raise ExportError(f"{trained.source} is no classifier, which is what timm's folders and the hub get from here")
    recipe = trained.task.recipe if trained.kind is Kind.RUN else None  # a recipe alone did not train it
    metrics = _metrics_of(trained)
    parts = [_header(recipe), f"# {title}", _what(trained)]
    if recipe:
        parts += [f"## Data\n\n{_data(recipe)}"]
        if metrics:
            parts += [f"## How good\n\n{_metrics(trained, metrics)}"]
        parts += [f"## Licence\n\n{_licence(recipe)}"]
    else:
        parts += ["## Licence\n\nThese weights come from elsewhere: read their licence there before you publish them."]
    place = f"hf-hub:{repository}" if repository else "local-dir:FOLDER"
    use = USE.format(
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
    source = Path(trained.source)
    return read_checkpoint(source / "best.pt" if source.is_dir() else source).get("metrics", {})


def _header(recipe: Any) -> str:
    lines = ["library_name: timm", "pipeline_tag: image-classification"]
    if start := recipe and _start(recipe):
        lines += ["license: other", f"license_name: {start['license']}", f"license_link: {start['link']}"]
    lines += ["tags:", *(f"- {tag}" for tag in ("image-classification", "timm", "transformers", "fastvit"))]
    return "\n".join(["---", *lines, "---"])


def _what(trained: Trained) -> str:
    architecture, labels = trained.architecture["name"], trained.labels
    named = ", ".join(labels[:MOST_LABELS]) + (", ..." if len(labels) > MOST_LABELS else "")
    size = trained.preprocessing
    is_run = trained.kind is Kind.RUN
    origin = f"Trained with fastvit {fastvit.__version__}" if is_run else f"Weights: {trained.weights}"
    return (
        f"`{architecture}` ([FastViT](https://arxiv.org/abs/2303.14189)), which tells {len(labels)} classes apart in "
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
    return "\n".join(
        [
            "| metric | value |",
            "|---|---|",
            *table,
            "",
            f"On {samples} images of the split `{recipe.data.val_split}`, which were not trained on, by the weights of "
            f"epoch {epoch}, chosen as the best one on them. {RESIZED[size.crop_mode]} resized to {side} "
            f"pixels ({size.interpolation}), and the center of {size.height}x{size.width} taken.",
        ]
    )


def _licence(recipe: Any) -> str:
    if start := _start(recipe):
        return (
            f"Fine-tuned from [{start['name']}]({start['link']}), whose licence ({start['license']}) applies to these "
            "weights, too: read it there."
        )
    if recipe.model.checkpoint:
        return (
            f"Fine-tuned from the file `{Path(recipe.model.checkpoint).name}`, whose licence applies to these weights, "
            "too. (Say here where it is from.)"
        )
    return "Trained from random weights. (Choose a licence, and state it in the header of this card.)"


def _start(recipe: Any) -> dict[str, str] | None:
    """Name, licence and address of the hub's weights that the training started from."""
    if not recipe.model.pretrained:
        return None
    config = get_pretrained_cfg(recipe.model.name)
    name = f"{config.architecture}.{config.tag}"
    licence = config.license or "see-there"
    return {"name": name, "license": licence, "link": f"https://huggingface.co/timm/{name}"}
