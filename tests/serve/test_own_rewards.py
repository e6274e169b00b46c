"""Rewards of users behind the API: whatever they return or raise is answered."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest

from serve.service import Service
from tests.reward_server import serving
from tests.serve.in_process import QUICK, URL, error_of, served


@pytest.mark.parametrize(
    ("returned", "rewards"),
    [
        ("[len(prompts) - k for k in range(len(prompts))]", {10: 3.0, 11: 2.0}),
        ("[float('nan'), float('inf'), -1]", {12: -1.0, 10: None}),
    ],
)
def test_a_users_reward_may_return_a_list(
    tiny_policy_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    returned: str,
    rewards: dict[int, float | None],
) -> None:
    module = f"listed_reward_{len(returned)}"
    (tmp_path / f"{module}.py").write_text(
        "class Mine:\n    name, checkpoint = 'mine', ''\n"
        f"    def __call__(self, prompts, waveforms, sample_rate_hz):\n        return {returned}\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    with served(tiny_policy_dir, reward=f"{module}:Mine") as client:
        answer = client.post(URL, json={**QUICK, "n": 2, "best_of": 3, "seed": 10})
    assert answer.status_code == 200, answer.text
    assert {sample["seed"]: sample["reward"] for sample in answer.json()["data"]} == rewards


@pytest.mark.parametrize(("combination", "rewards"), [("sum", {10: 90.0, 12: 45.2}), ("rank", {11: 1.0, 12: 0.95})])
def test_several_rewards_rank_as_they_are_combined(
    tiny_policy_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, combination: str, rewards: dict[int, float]
) -> None:
    (tmp_path / "two_rewards.py").write_text(
        "class Small:\n    name, checkpoint = 'small', ''\n"
        "    def __call__(self, prompts, waveforms, sample_rate_hz):\n        return [0.0, 0.3, 0.2]\n"
        "class Large(Small):\n"
        "    def __call__(self, prompts, waveforms, sample_rate_hz):\n        return [100, 0, 50]\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    reward = "1*two_rewards:Small+0.9*two_rewards:Large"
    with served(tiny_policy_dir, reward=reward, reward_combination=combination) as client:
        answer = client.post(URL, json={**QUICK, "n": 2, "best_of": 3, "seed": 10}).json()
    assert {sample["seed"]: sample["reward"] for sample in answer["data"]} == pytest.approx(rewards)
    assert [sample["seed"] for sample in answer["data"]] == list(rewards), "the best first"
    assert answer["reward_model"] == (reward if combination == "sum" else f"rank({reward})")


def test_a_served_reward_with_new_weights_fails_one_request_and_ranks_the_next(tiny_policy_dir: Path) -> None:
    with serving() as server, served(tiny_policy_dir, reward=f"{server.url}/score") as client:
        ask = {**QUICK, "best_of": 2}
        assert client.post(URL, json=ask).status_code == 200
        server.checkpoint = "w2"
        answer = client.post(URL, json=ask)
        assert answer.status_code == 500
        assert error_of(answer)["message"] == f"{server.url}/score has the weights 'w2' now, and had 'w1'"
        assert client.post(URL, json=ask).status_code == 200


def test_a_users_reward_that_does_not_return_holds_no_other_request_up(
    tiny_policy_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "blocking_reward.py").write_text(
        "import time\nclass Mine:\n    name, checkpoint = 'mine', ''\n"
        "    def __call__(self, prompts, waveforms, sample_rate_hz):\n"
        "        time.sleep(1000 if 'blocks' in prompts[0] else 0)\n        return [1.0] * len(prompts)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    problem = "reward mine did not return within 1 s (--max-reward-s)"
    with (
        served(tiny_policy_dir, reward="blocking_reward:Mine", max_reward_s=1) as client,
        ThreadPoolExecutor(3) as pool,
    ):
        ask = partial(client.post, URL)
        ask(json=QUICK)  # which makes the engine, once
        blocked = [pool.submit(ask, json={**QUICK, "input": "it blocks", "best_of": 2}) for _ in range(2)]
        assert ask(json=QUICK).status_code == 200
        for answer in (each.result() for each in blocked):
            assert (answer.status_code, error_of(answer)["message"]) == (500, problem)
        assert client.get("/health").json()["problem"] == problem
        assert ask(json={**QUICK, "best_of": 2}).status_code == 200
        assert client.get("/health").json()["problem"] == ""


def test_a_replica_whose_reward_never_returns_is_replaced(
    tiny_policy_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "endless_reward.py").write_text(
        "import time\nclass Mine:\n    name, checkpoint = 'mine', ''\n"
        "    def __call__(self, prompts, waveforms, sample_rate_hz):\n        time.sleep(1000)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    with served(tiny_policy_dir, reward="endless_reward:Mine", max_reward_s=0.1) as client:
        service: Service = cast(Any, client.app).state.service()
        for _ in range(5):
            assert service.is_healthy
            assert client.post(URL, json={**QUICK, "best_of": 2}).status_code == 500
        assert not service.is_healthy, "Serve replaces it"


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("return [1.0]", "reward mine returned rewards of shape (1,) for 3 samples"),
        ("return [[1.0]] * 3", "reward mine returned rewards of shape (3, 1) for 3 samples"),
        ("return None", "reward mine returned rewards of shape () for 3 samples"),
        ("return [1j] * 3", "reward mine failed: TypeError: complex numbers have no order"),
        ("raise ValueError('no weights')", "reward mine failed: ValueError: no weights"),
        ("raise SystemExit(3)", "reward mine failed: SystemExit: 3"),
        ("raise KeyboardInterrupt", "internal error (RuntimeError); see standard error of the server"),
        ("import torch; return torch.zeros(3, device='meta')", "reward mine failed: TypeError: can't convert meta"),
    ],
)
def test_a_users_reward_that_fails_is_answered_and_logged_and_the_next_request_is_served(
    tiny_policy_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any, body: str, message: str
) -> None:
    module = f"failing_reward_{abs(hash(body))}"
    (tmp_path / f"{module}.py").write_text(
        "class Mine:\n    name, checkpoint = 'mine', ''\n"
        f"    def __call__(self, prompts, waveforms, sample_rate_hz):\n        {body}\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    with served(tiny_policy_dir, reward=f"{module}:Mine") as client:
        answer = client.post(URL, json={**QUICK, "best_of": 3})
        assert client.post(URL, json=QUICK).status_code == 200
    assert answer.status_code == 500
    assert error_of(answer)["message"].startswith(message)
    assert "a request failed" in caplog.text
