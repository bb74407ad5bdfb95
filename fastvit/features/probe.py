"""What frozen features are worth: the accuracy of their nearest neighbours, and of a linear classifier on them."""

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np

from fastvit.errors import DataError, require_packages, some
from fastvit.features.files import Embeddings, require_same_model

STRENGTHS = tuple(float(f"1e{power}") for power in range(-2, 6))  # the swept C of logistic regression
HELD_OUT = 0.2  # of the training features, to choose C with
ITERATIONS = 1000


@dataclass(frozen=True)
class Neighbours:
    """The `k` nearest training images by cosine vote with weights exp(similarity / temperature).

    The protocol of DINO (arXiv 2104.14294, appendix), which goes back to arXiv 1805.01978.
    """

    k: int = 20
    temperature: float = 0.07

    def predict(self, train: Embeddings, val: Embeddings) -> np.ndarray:
        """The classes of the validation images. Raises DataError if there are fewer than k images to train on."""
        from sklearn.neighbors import KNeighborsClassifier

        if self.k > len(train.names):
            raise DataError(f"k is {self.k}, but there are {len(train.names)} training images: set --k to at most that")
        vote = KNeighborsClassifier(self.k, weights=self._weights, algorithm="brute", metric="cosine")
        return vote.fit(train.normalized(), train.labels).predict(val.normalized())

    def _weights(self, distances: np.ndarray) -> np.ndarray:
        return np.exp((1 - distances) / self.temperature)


@dataclass(frozen=True)
class Linear:
    """Logistic regression on features of length 1. C is chosen on a part of the training features, then all are used.

    Attributes:
        strengths: the values of C to choose from; of equal ones, the smallest.
    """

    strengths: tuple[float, ...] = STRENGTHS

    def predict(self, train: Embeddings, val: Embeddings) -> tuple[np.ndarray, dict[float, float]]:
        """The classes of the validation images, and the accuracy on the part by C.

        Raises:
            DataError: a class has one training image only, so that none is left to choose C with.
        """
        from sklearn.model_selection import train_test_split

        names, counts = np.unique(train.labels, return_counts=True)
        if counts.min() < 2:
            single = some([str(name) for name in names[counts < 2]], 3)
            raise DataError(f"classes with a single training image: {single}; a linear probe needs two of each")
        features, labels = train.normalized(), train.labels
        held_out = max(HELD_OUT, len(names) / len(labels))  # an image of each class at least
        fit, choose, fit_labels, choose_labels = train_test_split(
            features, labels, test_size=held_out, stratify=labels, random_state=0
        )
        sweep = {c: float(_regression(c, fit, fit_labels).score(choose, choose_labels)) for c in self.strengths}
        return _regression(best_strength(sweep), features, labels).predict(val.normalized()), sweep


def probe(
    train: Embeddings, val: Embeddings, *, neighbours: Neighbours | None, linear: Linear | None
) -> dict[str, Any]:
    """The top-1 accuracies in percent of what is asked for, ready for JSON.

    Raises:
        UserError: the embeddings are of different models, or their classes do not go together.
    """
    require_packages("probing", "sklearn", extra="train")
    require_same_model(val.about["model"], train.about["model"], "those to measure on", "those to train on")
    _require_labels(train, val)
    result: dict[str, Any] = {
        "model": train.about["model"],
        "classes": len(np.unique(train.labels)),
        "train_images": len(train.names),
        "val_images": len(val.names),
    }
    if neighbours:
        top1 = _top1(neighbours.predict(train, val), val.labels)
        result["knn"] = {"top1": top1, "k": neighbours.k, "temperature": neighbours.temperature}
    if linear:
        predicted, sweep = linear.predict(train, val)
        best = best_strength(sweep)
        result["linear"] = {
            "top1": _top1(predicted, val.labels),
            "C": best,
            "sweep": {str(c): a for c, a in sweep.items()},
        }
    return result


def best_strength(sweep: dict[float, float]) -> float:
    """The C of the highest accuracy; of several, the smallest."""
    return max(sweep, key=lambda c: (sweep[c], -c))


def _regression(strength: float, features: np.ndarray, labels: np.ndarray) -> Any:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # where C is so large that the weights grow without end
        return LogisticRegression(C=strength, max_iter=ITERATIONS).fit(features, labels)


def _top1(predicted: np.ndarray, labels: np.ndarray) -> float:
    return 100 * float((predicted == labels).mean())


def _require_labels(train: Embeddings, val: Embeddings) -> None:
    for what, embeddings in (("training", train), ("validation", val)):
        if not len(embeddings.names):
            raise DataError(f"there are no {what} images among these embeddings")
        if missing := embeddings.names[embeddings.labels == ""].tolist():
            raise DataError(
                f"{len(missing)} {what} images have no class, such as {missing[0]}: embed a folder with a folder for "
                "each class, shards with .cls files, or a dataset"
            )
    known = set(train.labels.tolist())
    if len(known) < 2:
        raise DataError(f"all training images are of one class, {train.labels[0]}: there is nothing to tell apart")
    if unknown := sorted(set(val.labels.tolist()) - known):
        raise DataError(f"classes of validation images that no training image has: {some(unknown)}")
