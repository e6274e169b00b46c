"""The worker that samples chunks of prompts with the current policy."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch
from numpy.typing import NDArray
from torch import Tensor

from actors.storage.object_store import ObjectStorePath
from actors.storage.policy_files import is_trained
from actors.storage.policy_store import local_policy
from actors.workers.chunk import Chunk
from actors.workers.messages import RolloutBatch
from actors.workers.rows import unscored_rows
from tangoflux.data.prompts import Prompt
from tangoflux.data.records import LatentsDtype, rollout_schema
from tangoflux.errors import CheckpointError
from tangoflux.pipeline import TangoFlux
from tangoflux.sampling import sample_latents
from tangoflux.sampling_params import Precision, SamplingParams, uses_bf16


class RolloutWorker:
    """Samples chunks. Its results depend on the chunk and the policy, not on earlier calls."""

    def __init__(
        self,
        policy_dir: Path | ObjectStorePath,
        params: SamplingParams,
        threads: int = 1,
        latents_dtype: LatentsDtype = "float32",
        policy_version: int = 0,
        device: str = "cpu",
        precision: Precision = "fp32",
    ) -> None:
        """Loads the model.

        Args:
            policy_dir: a directory in the published layout, or a version in an object store; its policy is
                ``policy_version``.
            threads: CPU threads of this process; their number can change the last bits of the results.
            latents_dtype: as stored.
            precision: in which the policy computes velocities; the codec's is always fp32.

        Raises:
            CheckpointError: ``policy_dir`` is no model directory.
        """
        torch.set_num_threads(threads)
        self.params = params
        self.policy_version = policy_version
        self._dtype = np.dtype(latents_dtype)
        self._bf16 = uses_bf16(precision, device)
        self._model = TangoFlux.from_pretrained(local_policy(policy_dir)).to(device)
        config = self._model.policy.config
        self._schema = rollout_schema(config.audio_seq_len, config.in_channels, latents_dtype)

    def set_policy(self, version: int, state: Mapping[str, Tensor]) -> None:
        """Replaces the policy's trained tensors, as ``PolicyStore.state`` gives them.

        Raises:
            CheckpointError: they are not exactly those of this model.
        """
        policy = self._model.policy
        expected = {key for key in policy.state_dict() if is_trained(key)}
        if set(state) != expected:
            names = sorted(expected ^ set(state))
            raise CheckpointError(f"policy version {version} is of another model: {', '.join(names[:5])}")
        policy.load_state_dict(dict(state), strict=False)
        self.policy_version = version

    def sample(self, chunk: Chunk) -> RolloutBatch:
        """Samples all prompts of the chunk, and decodes the latents as they will be stored."""
        start = time.perf_counter()
        requests = [
            self._model.request(prompt.text, prompt.duration_s, seeds)
            for prompt, seeds in zip(chunk.prompts, chunk.seeds, strict=True)
        ]
        with torch.autocast(self._model.policy.device.type, torch.bfloat16, enabled=self._bf16):
            groups = sample_latents(self._model.policy, requests, self.params)
        latents = [group.numpy().astype(self._dtype) for group in groups]
        waveforms = [self._decode(group, prompt) for group, prompt in zip(latents, chunk.prompts, strict=True)]
        seconds = (time.perf_counter() - start) / chunk.samples
        rows = unscored_rows(chunk, latents, waveforms, self._schema, self._provenance() | {"seconds": seconds})
        return RolloutBatch(chunk.index, rows, waveforms, self._model.sample_rate_hz)

    def _provenance(self) -> dict[str, Any]:
        return {
            "policy_version": self.policy_version,
            "num_steps": self.params.num_steps,
            "guidance_scale": self.params.guidance_scale,
            "negative_prompt": self.params.negative_prompt,
            "created_at": datetime.now(UTC),
            "worker": f"{socket.gethostname()}:{os.getpid()}",
        }

    def _decode(self, latents: NDArray[Any], prompt: Prompt) -> list[NDArray[np.float32]]:
        # A group at a time bounds the memory that the codec needs, whatever the size of a chunk.
        rows = list(torch.from_numpy(latents).float())
        return self._model.decode(rows, [prompt.duration_s] * len(rows))


RolloutActor = ray.remote(RolloutWorker)
