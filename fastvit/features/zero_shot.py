"""Classes by their names: embeddings of images beside those of texts, by a network of open_clip's."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from fastvit.errors import DataError, RunError
from fastvit.features.embedder import weights_sha256
from fastvit.features.files import Embeddings
from fastvit.trained import Options
from fastvit.trained.of_clip import load_clip, load_tokenizer

TEMPLATE = "a photo of a {}"


class TextTower:
    """The texts of a network of open_clip's, in the space of its images.

    Raises:
        UserError: it has no text tower, open_clip is not installed, or the weights are missing.
    """

    def __init__(self, source: str, options: Options):
        self.source = source
        self.clip: nn.Module = load_clip(source, options)
        self.tokenizer = load_tokenizer(source)

    def probabilities(
        self, embeddings: Embeddings, classes: Sequence[str], templates: Sequence[str] = (TEMPLATE,)
    ) -> np.ndarray:
        """(N, classes): how probable it is that an image is of a class, by the softmax of scaled cosines.

        Args:
            classes: their names, as they stand in a sentence.
            templates: sentences with {} in place of the name; the embeddings of several are averaged.

        Raises:
            UserError: a template has no place for a name, or the embeddings are of another model.
        """
        if wrong := [each for each in templates if each.count("{}") != 1]:
            raise RunError(f"the template {wrong[0]!r} needs {{}} once, where the name of a class goes")
        if len(set(classes)) < max(len(classes), 2):
            raise RunError("--classes needs two names at least, each once")
        if embeddings.about["model"]["weights_sha256"] != weights_sha256(self.clip.visual):
            raise DataError(
                f"these are embeddings of different models: the images' are of {embeddings.about['source']}, and the "
                f"texts' of {self.source}, or of other weights"
            )
        texts = self.text_embeddings(classes, templates)
        with torch.inference_mode():
            cosines = torch.from_numpy(embeddings.normalized()) @ texts.T  # (N, classes)
            return (self.clip.logit_scale.exp() * cosines).softmax(dim=1).numpy()

    @torch.inference_mode()
    def text_embeddings(self, classes: Sequence[str], templates: Sequence[str]) -> torch.Tensor:
        """(classes, D), each row of length 1."""
        from open_clip import build_zero_shot_classifier

        return build_zero_shot_classifier(self.clip, self.tokenizer, list(classes), list(templates)).T
