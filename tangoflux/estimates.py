"""Means and standard errors, where values may be missing, or come in clusters that are not independent."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def mean_and_error(
    values: NDArray[np.float64], clusters: Sequence[str] | None = None
) -> tuple[float | None, float | None]:
    """Mean of the finite values and its standard error; None where there are too few.

    Args:
        values: (n,).
        clusters: the cluster of each value, if values of one cluster are not independent; then the error is the
            cluster-robust one with the factor G / (G - 1) for G clusters (Cameron and Miller 2015, section II).
            Clusters of one value each give the usual error.
    """
    finite = np.isfinite(values)
    if not finite.any():
        return None, None
    kept = values[finite]
    labels = np.arange(len(kept)) if clusters is None else np.array(clusters)[finite]
    _, members = np.unique(labels, return_inverse=True)
    sums = np.bincount(members, weights=kept - kept.mean())
    if len(sums) < 2:
        return float(kept.mean()), None
    error = np.sqrt(len(sums) / (len(sums) - 1) * np.square(sums).sum()) / len(kept)
    return float(kept.mean()), float(error)


def row_means(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """(P,) the means of the finite values of each row of (P, N); NaN where there are none."""
    finite = np.isfinite(values)
    return np.divide(
        np.where(finite, values, 0.0).sum(1), finite.sum(1), out=np.full(len(values), np.nan), where=finite.any(1)
    )
