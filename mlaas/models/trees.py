"""Checks of decision trees that came from a file: compiled code follows their child and feature numbers without further tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mlaas.errors import BundleError

# Ensembles that hand their own matrix to the trees inside, without asking those how many features they take.
COMPILED = ("sklearn.ensemble._forest", "sklearn.ensemble._gb", "sklearn.ensemble._weight_boosting")


def check_trees(estimator: Any, width: int, path: Path) -> None:
    """Raise BundleError if a tree in the estimator points outside itself, runs in a circle, or reads a feature that is not there."""
    for part, features in _parts(estimator, width):
        kind = type(part).__name__
        good = True
        if kind == "Tree":
            inner = part.children_left != -1
            good = _inside(part.children_left, part.children_right, inner, part.node_count) and _features(part.feature[inner], features)
        elif kind == "TreePredictor":
            inner = part.nodes["is_leaf"] == 0
            good = _inside(part.nodes["left"], part.nodes["right"], inner, len(part.nodes)) and _features(part.nodes["feature_idx"][inner], features)
        elif kind in ("KDTree", "BallTree"):
            data, rows, nodes, _ = part.get_arrays()
            ends = np.concatenate([rows, nodes["idx_start"], nodes["idx_end"] - 1])
            good = bool(np.all((ends >= 0) & (ends < len(data))))
        if not good:
            raise BundleError(f"{path} holds a damaged tree ({kind})")


def _inside(left: npt.NDArray[Any], right: npt.NDArray[Any], inner: npt.NDArray[np.bool_], count: int) -> bool:
    """Whether the children of all inner nodes exist and come after their parents (so that there is no circle)."""
    parents = np.flatnonzero(inner)
    children = np.stack([left[inner], right[inner]]).astype(np.int64)
    return count > 0 and bool(np.all((children > parents) & (children < count)))


def _features(used: npt.NDArray[Any], features: int) -> bool:
    return bool(np.all((used >= 0) & (used < features)))


def _parts(root: Any, width: int) -> Iterator[tuple[Any, int]]:
    """Everything reachable from an estimator through attributes, lists and object arrays, with the number of features it is given."""
    stack, seen = [(root, width)], set[int]()
    while stack:
        item, features = stack.pop()
        if id(item) in seen or isinstance(item, str | bytes | int | float | type):
            continue
        seen.add(id(item))
        yield item, features
        children: list[Any] = []
        if isinstance(item, np.ndarray):
            children = item.ravel().tolist() if item.dtype == object else []
        elif isinstance(item, dict):
            children = list(item.values())
        elif isinstance(item, list | tuple | set):
            children = list(item)
        else:
            attributes = getattr(item, "__dict__", {})
            children = list(attributes.values())
            own = attributes.get("n_features_in_", features)
            features = min(own, features) if type(item).__module__ in COMPILED else own
        stack.extend((child, features) for child in children)
