"""How several rewards become one: the option of everything that ranks, declared once."""

from __future__ import annotations

from typing import Annotated

from actors.options.schema import REQUIRED, option
from tangoflux.reward_combination import Combination

RewardCombination = Annotated[
    Combination,
    option(
        REQUIRED,
        "how a sum of rewards ranks a prompt's samples: by their raw scores, or by their scores normalised or ranked "
        "among these samples",
        prefixed=True,
    ),
]
