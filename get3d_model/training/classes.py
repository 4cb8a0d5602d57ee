"""The classes of a class-conditional run: those of its data set.

Shape legend: K classes
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from get3d_model.config import ModelConfig
from get3d_model.data.dataset import RenderedDataset
from get3d_model.data.published import ALL_CATEGORIES
from get3d_model.errors import InputError

NAMES_IN_MESSAGE = 8


def dataset_category(model: ModelConfig) -> str | None:
    """Which categories of a data set in the published layout are read: all, where they are classes."""
    return ALL_CATEGORIES if model.num_classes else None


def class_shares(
    dataset: RenderedDataset, model: ModelConfig, weights_N: np.ndarray | None = None
) -> Tensor | None:
    """Share of each class among the images that are drawn; None for a model without classes.

    weights_N: how often each image is drawn; None: all as often.
    Raises InputError when the data set has another number of classes than the model, or no image of one.
    """
    if not model.num_classes:
        return None
    names = dataset.class_names
    if len(names) != model.num_classes:
        some = ", ".join(names[:NAMES_IN_MESSAGE]) + (", ..." if len(names) > NAMES_IN_MESSAGE else "")
        raise InputError(
            f"model.num_classes is {model.num_classes}, but {dataset.source.path} has {len(names)} classes"
            f" ({some}); set it to {len(names)}, or give every class a mesh folder of its own"
        )
    count_K = np.bincount(dataset.classes_N, minlength=len(names))
    if not count_K.all():
        raise InputError(
            f"{dataset.source.path}: the split {dataset.split!r} has no image of class"
            f" {names[int(count_K.argmin())]!r}; change the split or leave the class out"
        )
    drawn_K = np.bincount(dataset.classes_N, weights_N, len(names))
    return torch.from_numpy(drawn_K / drawn_K.sum()).float()
