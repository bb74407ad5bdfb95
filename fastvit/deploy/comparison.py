"""What an exported network computes, compared with the network that was given."""

import copy
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils._pytree import tree_leaves

from fastvit.compare import relative_error
from fastvit.data.preprocessing import Preprocessing
from fastvit.data.whole_image import WholeImage
from fastvit.deploy.network import flat
from fastvit.deploy.request import Request
from fastvit.deploy.runtimes.run import Run, computed
from fastvit.errors import ExportError
from fastvit.precision import exact_float32

# (height, width) of pictures on the scale of the crop: portrait, panorama, smaller than the crop, larger, and odd.
PICTURES = ((1.9, 1.0), (0.7, 3.1), (0.55, 0.4), (4.3, 5.1), (1.013, 1.117))


@torch.no_grad()
def compare(run: Run, request: Request) -> list[dict[str, Any]]:
    """The relative L2 error of all outputs on random images, for each shape, and on those that were given."""
    reference = _reference(request)
    generator = torch.Generator().manual_seed(0)
    batches = [torch.randn(shape, generator=generator) for shape in request.shapes()]
    if request.images is not None:
        size = len(request.example)
        batches += [batch for batch in request.images.split(size) if len(batch) == size]
    errors = []
    for images in batches:
        with exact_float32():
            expected = reference(images)
        error = output_error(computed(run, images, torch.float32), expected)
        errors.append({"shape": list(images.shape), "relative_error": error})
    return errors


def output_error(actual: Any, expected: Any) -> float:
    """`relative_error` of tensors in any nesting; infinite where their number or a shape differs."""
    actual, expected = tree_leaves(actual), tree_leaves(expected)
    same = [each.shape for each in actual] == [each.shape for each in expected]
    return relative_error(actual, expected) if same else math.inf


def compare_pixels(
    prepare: Callable[[np.ndarray], np.ndarray], preprocessing: Preprocessing | WholeImage, request: Request
) -> list[dict[str, Any]]:
    """The largest difference of a network's input from what the transform in Python makes, for pictures of odd sizes.

    Args:
        prepare: an RGB picture, uint8 (H, W, 3), as (1, 3, height, width), normalized.
        preprocessing: what that should be.

    Raises:
        ExportError: it is more than one of 255 levels.
    """
    transform = preprocessing.transform()
    level = 1.01 / (255 * min(preprocessing.std))
    results = []
    for picture in pictures(request):
        difference = np.abs(prepare(np.asarray(picture))[0] - transform(picture).numpy()).max()
        if not difference <= level:
            raise ExportError(
                f"the preprocessing in the file differs from the one in Python by {difference:.1e} on a picture of "
                f"{picture.height}x{picture.width}, more than one level of a color: nothing was written"
            )
        results.append({"picture": [picture.height, picture.width], "pixels": float(difference)})
    return results


@torch.no_grad()
def compare_probabilities(run: Callable[[np.ndarray], np.ndarray], request: Request) -> list[float]:
    """The largest difference of the probabilities of each of `pictures`, from Python's transform and network."""
    reference, transform = _reference(request), request.card.preprocessing.transform()
    last = request.card.probabilities()
    with exact_float32():
        logits = [flat(reference(transform(picture)[None]))[0] for picture in pictures(request)]
    expected = [last(each)[0].numpy() for each in logits]
    found = [run(np.asarray(picture)) for picture in pictures(request)]
    return [float(np.abs(one - other).max()) for one, other in zip(found, expected, strict=True)]


def pictures(request: Request) -> list[Image.Image]:
    """Something with edges, gradients and noise, in sizes that are none of the network's."""
    generator = np.random.default_rng(0)
    made = []
    for high, wide in PICTURES:
        height, width = round(high * request.example.shape[2]), round(wide * request.example.shape[3])
        coarse = Image.fromarray(generator.integers(0, 256, (7, 9, 3), dtype=np.uint8)).resize((width, height))
        noise = generator.normal(0, 12, (height, width, 3))
        made.append(Image.fromarray((np.asarray(coarse) + noise).clip(0, 255).astype(np.uint8)))
    return made


def _reference(request: Request) -> Callable[[Tensor], Any]:
    return copy.deepcopy(request.original).cpu().float().eval()
