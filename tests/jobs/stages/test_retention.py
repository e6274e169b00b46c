from __future__ import annotations

from pathlib import Path

from actors.storage.policy_store import PolicyStore
from actors.storage.shards import ShardWriter
from jobs.options.crpo import load_config
from jobs.stages.retention import drop_old
from jobs.stages.run_storage import RunStorage
from tests.tables import rollouts


def run_of_three(directory: Path, policy: Path) -> None:
    for iteration in range(4):
        PolicyStore(directory / "policies").publish(iteration, policy)
    for iteration in range(1, 4):
        ShardWriter(directory / "rollouts" / f"i{iteration:04d}").write(0, rollouts({("p", 0): 0.5, ("p", 1): 0.1}))


def test_without_the_options_everything_stays(tmp_path: Path, tiny_policy_dir: Path) -> None:
    run_of_three(tmp_path, tiny_policy_dir)
    drop_old(load_config([]), RunStorage(tmp_path, tmp_path), [1, 2, 3], 3)
    assert PolicyStore(tmp_path / "policies").versions() == [0, 1, 2, 3]
    assert "latents" in ShardWriter(tmp_path / "rollouts" / "i0001").read().column_names


def test_old_policies_go_but_for_the_base_and_old_latents_go_but_not_their_rows(
    tmp_path: Path, tiny_policy_dir: Path
) -> None:
    run_of_three(tmp_path, tiny_policy_dir)
    config = load_config(["--keep-policies", "1", "--keep-latents", "1"])
    for _ in range(2):
        drop_old(config, RunStorage(tmp_path, tmp_path), [1, 2, 3], 3)
        assert PolicyStore(tmp_path / "policies").versions() == [0, 3]
        tables = [ShardWriter(tmp_path / "rollouts" / f"i{number:04d}").read(verify=True) for number in (1, 2, 3)]
        assert ["latents" in table.column_names for table in tables] == [False, False, True]
        assert tables[0]["reward"].to_pylist() == [0.5, 0.1]
        assert len(list((tmp_path / "rollouts" / "i0001").glob("*.parquet"))) == 1


def test_the_first_latents_stay_where_all_iterations_train_on_them(tmp_path: Path, tiny_policy_dir: Path) -> None:
    run_of_three(tmp_path, tiny_policy_dir)
    drop_old(load_config(["--keep-latents", "1", "--data", "offline"]), RunStorage(tmp_path, tmp_path), [1, 2, 3], 3)
    assert "latents" in ShardWriter(tmp_path / "rollouts" / "i0001").read().column_names
