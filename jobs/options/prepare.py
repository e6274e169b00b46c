"""Options of `python jobs/prepare.py`."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import field_validator

from actors.options.schema import REQUIRED, Options, option
from jobs.options.sections import LOCAL_PATH, CodecOptions, local_path

DESCRIPTION = """\
Decodes the audio that a manifest names, brings it to the codec's sample rate and channels, takes the middle of what is
longer than the policy can make, encodes it, and writes the latents as Parquet shards, so that jobs/pretrain.py never
touches audio. Loudness stays as it is. A manifest is a table (.jsonl, .csv or .parquet) with a line a clip:

  {"audio": "dogs/7.wav", "caption": "a dog barks twice", "start": 2.5, "duration": 4, "id": "d7"}

start and duration (seconds) say which part of the file it is, and default to all of it; id names the clip; captions, a
list of texts, may stand in place of caption. Paths are relative to the manifest or to --audio-dir; file://, s3:// and
gs:// URIs work too. AudioCaps' .csv and WavCaps' .json are read as they are distributed: --audio-dir says where their
audio lies, under any of the usual names. Audio may be WAV, FLAC, OGG or MP3.

A clip whose file is missing, empty, damaged, cut off or silent, or whose caption is empty or huge, goes to
quarantine.jsonl with the reason. The same command again goes on with what is missing."""

EXAMPLES = """\
examples:
  python jobs/prepare.py --manifest mine.jsonl --output prepared/mine
  python jobs/prepare.py --manifest train.csv --audio-dir audiocaps/train --output prepared/audiocaps \\
    --policy declare-lab/TangoFlux --codec-num-gpus 1 --max-quarantined-share 0.2
  python jobs/prepare.py --manifest sb_final.json --audio-dir s3://bucket/SoundBible --output prepared/soundbible
then:
  python jobs/pretrain.py --clips prepared/mine --output pretrained/mine
"""


class PrepareJob(Options):
    """All options of the job."""

    manifest: Path = option(REQUIRED, "manifest: .jsonl, .csv, .parquet, or WavCaps' .json", allowed=LOCAL_PATH)
    output: Path = option(REQUIRED, "directory that gets the latents", allowed=LOCAL_PATH)
    format: Literal["auto", "manifest", "audiocaps", "wavcaps"] = option(
        "auto", "what the manifest's columns mean; auto takes the format that they fit"
    )
    audio_dir: str | None = option(
        None, "path or URI of the directory of the audio", default_text="the manifest's", min_length=1
    )
    policy: str = option("miniature", "policy whose codec encodes: a directory or a name", min_length=1)
    max_quarantined_share: float = option(
        0.1, "share of the clips that may be quarantined before the job stops", ge=0, le=1
    )
    latents_dtype: Literal["float32", "float16"] = option("float32", "how latents are stored")
    shard_clips: int = option(128, "clips of a shard", unit="clips", ge=1, le=100_000)
    batch_clips: int = option(
        4, "clips that a worker decodes or encodes together; needs memory", flag="codec-batch-clips", ge=1, le=64
    )
    codec: CodecOptions = CodecOptions()

    _local = field_validator("manifest", "output")(local_path)
