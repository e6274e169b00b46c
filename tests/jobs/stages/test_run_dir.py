from __future__ import annotations

import pytest

from jobs.stages.run_dir import check_same_rewards
from tangoflux.errors import ConfigError


def test_a_resume_with_other_weights_is_refused() -> None:
    check_same_rewards({"http://a/score": "w1"}, {})
    check_same_rewards({"http://a/score": "w1"}, {"http://a/score": "w1", "http://b/score": "w1"})
    with pytest.raises(ConfigError, match="http://a/score has the weights 'w2' now, and had 'w1' when the run began"):
        check_same_rewards({"http://a/score": "w2"}, {"http://a/score": "w1"})
