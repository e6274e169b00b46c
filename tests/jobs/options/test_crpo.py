from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from actors.options.schema import option_fields, option_values
from actors.options.yaml_files import load_file
from actors.storage.object_store import ObjectStorePath
from jobs.options.crpo import SOUND_WORLD_REWARD, RunConfig, load_config
from jobs.options.sections import CONFIGS
from jobs.stages.run_dir import check_run_dir, open_run_dir
from tangoflux.errors import ConfigError

DOCUMENTED_FLAGS = (
    *("--config", "--run-dir", "--init-policy", "--prompts", "--iterations", "--prompts-per-iteration"),
    *("--num-samples", "--num-steps", "--guidance-scale", "--rollout-workers", "--reward-workers"),
    *("--learner-workers", "--objective", "--data", "--beta", "--learning-rate", "--batch-size", "--epochs"),
    *("--reward", "--seed", "--resume"),
)


def refusal(*arguments: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(arguments)
    message = str(caught.value)
    assert "\n" not in message
    return message


def yaml_file(directory: Path, text: str) -> str:
    path = directory / "my.yaml"
    path.write_text(text, encoding="utf-8")
    return str(path)


def help_text(capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as ended:
        load_config(["--help"])
    assert ended.value.code == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("name", ["default", "tangoflux", "cluster"])
def test_every_shipped_config_loads_by_name(name: str) -> None:
    assert option_values(load_config(["--config", name]))


def test_every_shipped_config_is_that_of_a_job() -> None:
    of_pretraining = {"pretrain-wavcaps", "finetune-audiocaps"}  # see test_pretrain.py
    assert {file.stem for file in CONFIGS.glob("*.yaml")} == {"default", "tangoflux", "cluster"} | of_pretraining


def test_default_config_names_every_option_with_its_default() -> None:
    default = load_file(RunConfig, CONFIGS / "default.yaml")
    sections = [default, default.sampling, default.rollouts, default.rewards, default.learner, default.heldout]
    for section in sections:
        assert set(type(section).model_fields) - {"run_dir", "resume"} <= section.model_fields_set
    assert default.model_copy(update={"run_dir": Path("a")}) == RunConfig(run_dir=Path("a"))


def test_every_option_has_a_flag_of_its_own_a_description_and_a_default_in_the_help(
    capsys: pytest.CaptureFixture[str],
) -> None:
    text = " ".join(help_text(capsys).split())
    flags = [option.flag for option in option_fields(RunConfig)]
    assert len(set(flags)) == len(flags)
    assert set(DOCUMENTED_FLAGS) <= {*flags, "--config"}
    for option in option_fields(RunConfig):
        assert f"{option.flag} " in text
        assert option.field.description
        assert option.help.split("[")[1].replace("-", "") in text.replace("- ", "").replace("-", "")


def test_command_line_wins_over_the_file_and_the_file_over_the_defaults(tmp_path: Path) -> None:
    file = yaml_file(tmp_path, "seed: 5\nlearner:\n  beta: 100\n  epochs: 3\n")
    config = load_config(["--config", file, "--epochs", "5"])
    assert (config.seed, config.learner.beta, config.learner.epochs, config.learner.batch_size) == (5, 100, 5, 32)


def test_every_value_can_be_given_on_the_command_line() -> None:
    default = RunConfig(run_dir=Path("runs/a"))
    arguments: list[str] = []
    for option, value in zip(option_fields(RunConfig), option_values(default).values(), strict=True):
        values = value if isinstance(value, tuple) else ["none" if value in (None, {}) else str(value)]
        arguments += [option.flag, *map(str, values)]
    assert load_config(arguments) == default


def test_numbers_as_yaml_spells_them(tmp_path: Path) -> None:
    config = load_config(["--config", yaml_file(tmp_path, "learner: {learning_rate: 4e-5, adam_betas: [0.9, 0.99]}")])
    assert (config.learner.learning_rate, config.learner.adam_betas) == (4e-5, (0.9, 0.99))


def test_new_runs_get_a_directory_named_after_the_time() -> None:
    assert load_config([]).run_dir.parent == Path("runs")


def test_none_switches_the_judge_off_and_is_kept() -> None:
    config = load_config(["--judge", "none", "--run-dir", "a"])
    assert config.rewards.judge is None
    assert config.rewards.roles == {
        "reward": SOUND_WORLD_REWARD["name"],
        "exact": "miniature-detector",
    }


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--bta", "3"], "unknown option --bta; did you mean --beta?"),
        (["--num_steps=3"], "did you mean --num-steps?"),
        (["--iter", "3"], "unknown option --iter"),
        (["mine.txt"], "unexpected argument 'mine.txt'"),
        (["--beta"], "--beta: expected one argument"),
        (["--beta", "strong"], "--beta is strong: it must be a number above 0"),
        (["--beta", "nan"], "--beta is nan"),
        (["--learning-rate", "inf"], "--learning-rate is inf"),
        (["--iterations", "0"], "--iterations is 0: it must be a whole number from 1 to 9999"),
        (["--iterations", "2.5"], "--iterations is 2.5"),
        (["--seed", "-1"], "--seed is -1"),
        (["--objective", "ppo"], "--objective is ppo: it must be one of crpo, dpo_fm"),
        (
            ["--objective", "awm", "--nft-beta", "2"],
            "--nft-beta 2 has no meaning for --objective awm",
        ),
        (["--objective", "expert_iteration", "--top-k", "5"], "--top-k 5 is more than the 4 samples of a group"),
        (["--adam-betas", "0.9", "1"], "--adam-betas is 0.9 1: it must be two numbers"),
        (["--resume", "maybe"], "--resume is maybe: it must be true or false"),
        (["--resume"], "--resume needs --run-dir"),
        (
            ["--run-dir", "ftp://host/run"],
            "ftp://host/run is neither a path nor the URI of an object store: give s3://bucket/prefix",
        ),
        (["--config", "defalt"], "nor one of default, tangoflux, cluster; did you mean default?"),
        (["--config", "absent.yaml"], "--config absent.yaml: neither a file nor one of"),
        (["--learner-workers", "4", "--batch-size", "2"], "--batch-size 2 is less than one pair"),
        (["--prompts-per-iteration", "1", "--learner-workers", "2"], "makes at most 1 pairs to train on"),
        (["--warmup-steps", "48"], "--warmup-steps 48 is not below the 20 steps"),
        (["--num-audio-samples", "129"], "--num-audio-samples 129 is more than the 64"),
    ],
)
def test_bad_arguments_are_refused_in_one_line(arguments: list[str], said: str) -> None:
    assert said in refusal(*arguments)


def test_one_sample_a_prompt_is_refused_with_the_reason() -> None:
    message = refusal("--num-samples", "1")
    assert "--num-samples is 1" in message
    assert "best and the worst" in message


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("learner: {bta: 3}", "unknown key learner.bta; did you mean learner.beta?"),
        ("beta: 3", "unknown key beta; did you mean learner.beta?"),
        ("rollout_workers: 3", "did you mean rollouts.workers?"),
        ("sampling: {steps: 3}", "unknown key sampling.steps; did you mean sampling.num_steps?"),
        ("xyzzy: 3", "unknown key xyzzy; see --help for all options"),
        ("1: 2", "unknown key 1"),
        ("learner: 3", "learner is a section"),
        ("learner: {beta: [1, 2]}", "learner.beta in"),
        ("learner: {epochs: yes}", "epochs in"),
        ("seed: 1\nseed: 2", "my.yaml:2: not YAML: duplicate key 'seed'"),
        ("seed: [1", "not YAML"),
        ("- seed", "holds list"),
        ("a\0b", "not UTF-8 text"),
        ("[" * 2_000, "nested too deeply"),
        ("init_policy: null", "init_policy in"),
    ],
)
def test_bad_files_are_refused_in_one_line_that_names_file_and_key(tmp_path: Path, text: str, said: str) -> None:
    message = refusal("--config", yaml_file(tmp_path, text))
    assert said in message
    assert "my.yaml" in message


def test_empty_file_is_the_default_config(tmp_path: Path) -> None:
    file = yaml_file(tmp_path, "# nothing yet\nlearner:\n")
    assert load_config(["--config", file, "--run-dir", "a"]) == load_config(["--run-dir", "a"])


def started(directory: Path, *arguments: str) -> RunConfig:
    config = load_config(["--run-dir", str(directory), *arguments])
    check_run_dir(config)
    open_run_dir(config, directory)
    return config


def test_stored_config_reads_back_as_it_was(tmp_path: Path) -> None:
    prompt_file = tmp_path / "prompts.txt"
    config = started(tmp_path / "run", "--beta", "5", "--negative-prompt", "雨: #x", "--prompts", str(prompt_file))
    assert load_file(RunConfig, tmp_path / "run" / "config.yaml") == config
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["config.yaml"]


def test_directory_of_another_run_or_of_something_else_is_refused(tmp_path: Path) -> None:
    started(tmp_path / "run")
    with pytest.raises(ConfigError, match=r"run holds a run; pass --resume .* or choose another --run-dir"):
        check_run_dir(load_config(["--run-dir", str(tmp_path / "run")]))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").touch()
    with pytest.raises(ConfigError, match="mine is not empty"):
        check_run_dir(load_config(["--run-dir", str(tmp_path / "mine")]))


def test_resume_takes_the_runs_own_options_and_lets_the_number_of_workers_change(tmp_path: Path) -> None:
    config = started(tmp_path / "run", "--beta", "5", "--iterations", "2")
    again = load_config(["--run-dir", str(tmp_path / "run"), "--resume", "--rollout-workers", "7", "--iterations", "4"])
    check_run_dir(again)
    assert again.learner == config.learner
    assert (str(again.rollouts.workers), again.iterations) == ("7", 4)


def test_resume_with_other_options_names_each_with_both_values(tmp_path: Path) -> None:
    started(tmp_path / "run", "--iterations", "3")
    other = load_config(["--run-dir", str(tmp_path / "run"), "--resume", "--beta", "5", "--seed", "2"])
    with pytest.raises(ConfigError, match=r"seed is 0 there and 2 now; learner.beta is None there and 5.0 now"):
        check_run_dir(other)
    fewer = load_config(["--run-dir", str(tmp_path / "run"), "--resume", "--iterations", "2"])
    with pytest.raises(ConfigError, match="--iterations 2 is less than the 3"):
        check_run_dir(fewer)


def test_resume_with_another_margin_is_refused_as_stored_pairs_have_the_old_one(tmp_path: Path) -> None:
    config = load_config(["--run-dir", str(tmp_path / "run")])
    open_run_dir(config, tmp_path / "run")
    other = load_config(["--run-dir", str(tmp_path / "run"), "--resume", "--min-margin", "0.1"])
    with pytest.raises(ConfigError, match=r"rewards.min_margin is 0.0 there and 0.1 now"):
        check_run_dir(other)


def test_resume_of_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="holds no run"):
        check_run_dir(load_config(["--run-dir", str(tmp_path / "absent"), "--resume"]))
    assert not (tmp_path / "absent").exists()


def test_run_directory_that_cannot_be_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="file is not a directory"):
        check_run_dir(load_config(["--run-dir", str(tmp_path / "file" / "run")]))
    with pytest.raises(ConfigError, match="cannot be used: File name too long"):
        check_run_dir(load_config(["--run-dir", str(tmp_path / ("x" * 300))]))
    with pytest.raises(ConfigError, match="/proc/run cannot be written"):
        open_run_dir(load_config([]), Path("/proc/run"))
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_range_of_workers_is_read_from_yaml_as_it_is_written(tmp_path: Path) -> None:
    file = tmp_path / "my.yaml"
    file.write_text("rollouts:\n  workers: 1:16\nrewards:\n  workers: 2\n")
    config = load_config(["--config", str(file)])
    assert (str(config.rollouts.workers), str(config.rewards.workers)) == ("1:16", "2")
    again = tmp_path / "again.yaml"
    again.write_text(config.to_yaml())
    assert load_file(RunConfig, again).rollouts.workers == config.rollouts.workers


def test_a_range_that_is_none_is_refused() -> None:
    with pytest.raises(ConfigError, match="--rollout-workers is 4:1: it must be a number of at least 1, or a range"):
        load_config(["--rollout-workers", "4:1"])


def test_custom_resources_and_labels_are_the_same_from_command_line_and_yaml(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("rollouts: {resources: {rollout: 0.5, fast: 1}, label_selector: {zone: 'in(a,b)', tier: spot}}\n")
    flags = ["--rollout-resources", "rollout=0.5,fast=1", "--rollout-label-selector", "zone=in(a,b),tier=spot"]
    assert load_config(flags).rollouts == load_config(["--config", str(file)]).rollouts
    assert load_config(flags).rollouts.label_selector == {"zone": "in(a,b)", "tier": "spot"}


@pytest.mark.parametrize("value", ["GPU=1", "rollout", "rollout=0", "rollout=-1", "rollout=x", "=1", "a b=1"])
def test_custom_resources_that_cannot_be_asked_for_are_refused(value: str) -> None:
    with pytest.raises(ConfigError, match=r"^--learner-resources is .*: it must be NAME=AMOUNT,\.\.\. with amounts"):
        load_config(["--learner-resources", value])


def test_a_file_may_extend_another_one_beside_it(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text("seed: 3\nlearner: {beta: 7, epochs: 2}\n")
    assert load_config(["--config", yaml_file(tmp_path, "extends: base.yaml\nlearner: {beta: 9}")]).learner.beta == 9
    extended = load_config(["--config", yaml_file(tmp_path, "extends: base.yaml\nlearner: {beta: 9}")])
    assert (extended.seed, extended.learner.epochs) == (3, 2)
    for name in ("absent.yaml", "3", "[a]"):
        with pytest.raises(ConfigError, match="it must be another file in the same directory"):
            load_config(["--config", yaml_file(tmp_path, f"extends: {name}")])


def test_a_run_in_an_object_store_is_resumed_with_its_own_config(bucket_dir: ObjectStorePath, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="holds no run"):
        check_run_dir(load_config(["--run-dir", str(bucket_dir), "--resume"]))
    config = load_config(["--run-dir", str(bucket_dir), "--beta", "7"])
    check_run_dir(config)
    assert RunConfig.model_validate(yaml.safe_load(config.to_yaml())).run_dir == bucket_dir
    open_run_dir(config, tmp_path)
    (bucket_dir / "config.yaml").put(tmp_path / "config.yaml")
    again = load_config(["--run-dir", str(bucket_dir), "--resume"])
    check_run_dir(again)
    assert again.learner.beta == 7
    with pytest.raises(ConfigError, match="holds a run; pass --resume"):
        check_run_dir(config)


def test_prompts_of_a_users_own_are_ranked_by_a_reward_that_reads_any_text(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("a dog barks twice\n")
    rewards = load_config([]).rewards
    assert {"name": rewards.name, "combination": rewards.combination} == SOUND_WORLD_REWARD
    assert load_config(["--reward-combination", "rank"]).rewards.combination == "rank"
    assert load_config(["--prompts", str(tmp_path / "mine.txt")]).rewards.name == "miniature-clap"
    assert load_config(["--reward", "miniature-detector"]).rewards.name == "miniature-detector"
