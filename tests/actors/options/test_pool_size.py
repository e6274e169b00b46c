from __future__ import annotations

import pytest

from actors.options.pool_size import PoolSize


@pytest.mark.parametrize(("text", "least", "most"), [("4", 4, 4), ("1:16", 1, 16), (3, 3, 3)])
def test_a_number_or_a_range_is_a_size(text: object, least: int, most: int) -> None:
    size = PoolSize.parse(text)
    assert size == PoolSize(least, most)
    assert PoolSize.parse(str(size)) == size


@pytest.mark.parametrize("text", ["0", "0:4", "4:1", "1:", ":3", "1:2:3", "-1", "two", "", 1.5, "9999999"])
def test_anything_else_is_refused(text: object) -> None:
    with pytest.raises(ValueError, match="a number of at least 1, or a range such as 1:16"):
        PoolSize.parse(text)
