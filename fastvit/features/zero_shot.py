"""Classes by their names: embeddings of images beside those of texts, by a network of open_clip's."""

from collections.abc import Sequence

import numpy as np
import torch

from fastvit.errors import DataError, RunError
from fastvit.features.embedder import weights_sha256
from fastvit.features.files import Embeddings
from fastvit.trained import Options
from fastvit.trained.of_clip import load_clip, load_tokenizer

TEMPLATE = "a photo of a {}"


def zero_shot(
    embeddings: Embeddings,
    source: str,
    options: Options,
    *,
    classes: Sequence[str],
    templates: Sequence[str] = (TEMPLATE,),
) -> np.ndarray:
    """(N, classes): how probable it is that an image is of a class, by the softmax of scaled cosines.

    Args:
        embeddings: by the image tower of the same network with the same weights.
        source, options: the network, as in `fastvit.trained`.
        classes: their names, as they stand in a sentence.
        templates: sentences with {} in place of the name; the embeddings of several are averaged.

    Raises:
        UserError: the network has no text tower, or open_clip is not installed; weights are missing; a template has no
            place for a name; or the embeddings are of another model.
    """
    if wrong := [each for each in templates if each.count("{}") != 1]:
        raise RunError(f"the template {wrong[0]!r} needs {{}} once, where the name of a class goes")
    if len(set(classes)) < max(len(classes), 2):
        raise RunError("--classes needs two names at least, each once")
    clip, tokenizer = load_clip(source, options), load_tokenizer(source)
    if embeddings.about["model"]["weights_sha256"] != weights_sha256(clip.visual):
        raise DataError(
            f"these are embeddings of different models: the images' are of {embeddings.about['source']}, and the "
            f"texts' of {source}, or of other weights"
        )
    from open_clip import build_zero_shot_classifier

    with torch.inference_mode():
        texts = build_zero_shot_classifier(clip, tokenizer, list(classes), list(templates))  # (D, classes)
        cosines = torch.from_numpy(embeddings.normalized()) @ texts  # (N, classes)
        return (clip.logit_scale.exp() * cosines).softmax(dim=1).numpy()
