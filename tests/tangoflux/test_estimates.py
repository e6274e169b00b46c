from __future__ import annotations

import numpy as np
import pytest

from tangoflux.estimates import mean_and_error, row_means


def test_no_scores_give_no_figures() -> None:
    assert mean_and_error(np.array([np.nan])) == (None, None)


def test_an_error_over_clusters_is_that_of_their_means_where_they_are_of_one_size() -> None:
    rng = np.random.default_rng(1)
    values = np.repeat(rng.normal(size=8), 5) + 0.1 * rng.normal(size=40)
    clusters = [str(index // 5) for index in range(40)]
    mean, error = mean_and_error(values, clusters)
    assert mean_and_error(values.reshape(8, 5).mean(axis=1)) == (pytest.approx(mean), pytest.approx(error))
    assert error is not None and error > 1.8 * (mean_and_error(values)[1] or 0)


def test_values_of_one_cluster_have_no_error() -> None:
    assert mean_and_error(np.arange(3.0), ["a"] * 3) == (1.0, None)


def test_rows_have_the_means_of_what_is_there() -> None:
    rows = np.array([[1.0, 3.0], [2.0, np.nan], [np.nan, np.nan]])
    np.testing.assert_array_equal(row_means(rows), [2.0, 2.0, np.nan])
