"""The user's side of the demo: a class that answers requests with a model, and the training of two such models.

``run`` trains in the driver. Replicas import this module for the class alone, so only the training imports
scikit-learn; in a replica the unpickled model does.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import joblib
import numpy as np
from numpy.typing import NDArray

import pointsman as serve

SPLIT_SEED = 0
Image = list[list[int]]


class DigitClassifier:
    """A backend: says which digit an image shows.

    Args:
        path: file of a fitted scikit-learn classifier, saved by joblib.
    """

    def __init__(self, path: str) -> None:
        self.model = joblib.load(path)

    def __call__(self, request: serve.Request) -> dict[str, Any]:
        """Answer ``{"image": 8 rows of 8 numbers from 0 to 16}`` with ``{"digit": ..., "backend": ...}``."""
        pixels = np.asarray(request.json()["image"], dtype=float).reshape(1, 64)
        return {"digit": int(self.model.predict(pixels)[0]), "backend": serve.get_current_backend_tag()}


class HeldOut(NamedTuple):
    """Images that were left out of the training, and the digits that they show."""

    images: list[Image]
    digits: list[int]


class Trained(NamedTuple):
    """The files of the models, by backend tag, and the images to measure them with."""

    paths: Mapping[str, str]
    held_out: HeldOut


def train(folder: Path) -> Trained:
    """Fit a linear classifier and a better one on half of scikit-learn's handwritten digits, and save both."""
    from sklearn.datasets import load_digits
    from sklearn.linear_model import RidgeClassifier
    from sklearn.model_selection import train_test_split
    from sklearn.svm import SVC

    digits = load_digits()
    seen, held_out, seen_digits, held_out_digits = train_test_split(
        digits.data, digits.target, test_size=0.5, random_state=SPLIT_SEED, stratify=digits.target
    )
    models = {
        "digits-linear": RidgeClassifier(),
        "digits-svm": SVC(gamma=0.001),
    }
    paths = {}
    for tag, model in models.items():
        paths[tag] = str(folder / f"{tag}.joblib")
        joblib.dump(model.fit(seen, seen_digits), paths[tag])
    return Trained(
        paths,
        HeldOut([_image(pixels) for pixels in held_out], [int(digit) for digit in held_out_digits]),
    )


def _image(pixels: NDArray[np.float64]) -> Image:
    rows: Image = pixels.reshape(8, 8).astype(int).tolist()
    return rows
