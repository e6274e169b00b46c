"""`--config tangoflux` with a hub on this machine that has files of the published names, formats and keys.

Only the sizes and devices differ from the paper's config; names, precisions and LoRA do not.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import soundfile

from actors.storage.shards import ShardWriter
from tests.hub import LocalHub
from tests.tangoflux.rewards.laion_files import Sizes, laion_state, write_laion_checkpoint, write_roberta_tokenizer
from tests.tiny import tiny_model

pytestmark = [pytest.mark.ray, pytest.mark.slow]

REPOSITORY = Path(__file__).resolve().parents[2]
SMALL = {
    "--iterations": 2,
    "--prompts-per-iteration": 8,
    "--num-samples": 3,
    "--duration-s": 0.5,
    "--num-steps": 2,
    "--rollout-num-gpus": 0,
    "--reward-num-gpus": 0,
    "--learner-num-gpus": 0,
    "--learner-threads": 1,
    "--batch-size": 4,
    "--epochs": 1,
    "--warmup-steps": 1,
    "--heldout-num-prompts": 3,
    "--num-audio-samples": 1,
    "--lora-rank": 4,
}


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> LocalHub:
    root = tmp_path_factory.mktemp("hub")
    model, text = root / "declare-lab" / "TangoFlux-base", root / "google" / "flan-t5-large"
    tiny_model(latent_frames="full", front=False).save_pretrained(model)
    text.parent.mkdir()
    shutil.move(model / "text_encoder", text)
    vocabulary = write_roberta_tokenizer(root / "FacebookAI" / "roberta-base")
    (root / "lukewys" / "laion_clap").mkdir(parents=True)
    for name, fusion in (("630k-audioset-best.pt", False), ("630k-audioset-fusion-best.pt", True)):
        state = laion_state(Sizes(audio=16, text=64, joint=32, vocabulary=vocabulary, fusion=fusion))
        write_laion_checkpoint(root / "lukewys" / "laion_clap" / name, state)
    return LocalHub(root)


def events(run_dir: Path, kind: str) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return [row for row in rows if row["event"] == kind]


def test_the_papers_config_runs_from_names_on_the_hub_to_adapters(hub: LocalHub, tmp_path: Path) -> None:
    captions = "".join(f"{n},id{n},0,a dog barks {n} times\n" for n in range(12))
    (tmp_path / "train.csv").write_text("audiocap_id,youtube_id,start_time,caption\n" + captions)
    run_dir = tmp_path / "run"
    command = [sys.executable, "jobs/crpo.py", "--config", "tangoflux", "--run-dir", str(run_dir)]
    command += ["--prompts", str(tmp_path / "train.csv"), "--heldout-prompts", str(tmp_path / "train.csv")]
    command += [str(part) for pair in SMALL.items() for part in pair]
    environment = {**os.environ, "HF_HOME": str(tmp_path / "home"), "HF_HUB_DISABLE_XET": "1", "HF_HUB_OFFLINE": "0"}
    with hub.running() as address:
        environment |= {"HF_ENDPOINT": address, "HF_HUB_DISABLE_TELEMETRY": "1"}
        result = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "google/flan-t5-large/model.safetensors" not in hub.downloads
    rollouts = ShardWriter(run_dir / "rollouts" / "i0001").read(["reward_model"])
    assert set(rollouts["reward_model"].to_pylist()) == {"630k-audioset-best"}
    first_steps = [step for step in events(run_dir, "step") if step["step"] == 1]
    # At the start of each iteration, policy and reference are equal.
    assert [step["dpo_loss"] for step in first_steps] == pytest.approx([math.log(2)] * 2, rel=1e-6)
    assert set(events(run_dir, "iteration")[2]["heldout"]) == {"reward", "judge"}
    last = run_dir / "policies" / "v0002"
    assert not (last / "tangoflux.safetensors").exists() and (last / "adapter_model.safetensors").exists()
    command = [sys.executable, "jobs/generate.py", "a dog", str(tmp_path / "dog.flac")]
    command += ["--policy", str(last), "--duration-s", "0.5", "--num-steps", "1"]
    subprocess.run(command, cwd=REPOSITORY, env={**environment, "HF_HUB_OFFLINE": "1"}, check=True)
    assert soundfile.info(tmp_path / "dog.flac").frames == 8000
