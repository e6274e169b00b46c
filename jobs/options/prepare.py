"""Options of `python jobs/prepare.py`."""

from __future__ import annotations

from typing import Literal

from actors.options.command_line import Command
from actors.options.schema import REQUIRED, Options, option
from jobs.options.sections import CodecOptions, LatentsDtype, LocalPath

DESCRIPTION = """\
Decodes the audio that a manifest names, converts it to the codec's sample rate and channels, crops clips longer than
the policy's maximum to their middle, encodes them, and writes the latents as Parquet shards, so that jobs/pretrain.py
never decodes audio. Loudness is not changed. A manifest is a table (.jsonl, .csv or .parquet) with one row per clip:

  {"audio": "dogs/7.wav", "caption": "a dog barks twice", "start": 2.5, "duration": 4, "id": "d7"}

start and duration (seconds) select a part of the file, by default all of it; id names the clip; captions, a list of
texts, may replace caption. Paths are relative to the manifest or to --audio-dir; file://, s3:// and gs:// URIs work
too. A .parquet may hold the audio itself (audio: bytes, or a struct of bytes and path); of a set in several .parquet,
give the folder. AudioCaps' .csv and WavCaps' .json are read as they are distributed; --audio-dir is the directory of
their audio, under any of the usual file names.
Audio may be WAV, FLAC, OGG, MP3 or another format of libsndfile.

A clip whose file is missing, empty, damaged, truncated, silent, out of scale, or shorter than half of what the manifest
says, or whose caption is empty or too long, is listed in quarantine.jsonl with the reason. Run the same command again
to resume."""

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

    manifest: LocalPath = option(REQUIRED, "manifest: .jsonl, .csv, .parquet, a folder of .parquet, or WavCaps' .json")
    output: LocalPath = option(REQUIRED, "directory to write the latents to")
    format: Literal["auto", "manifest", "audiocaps", "wavcaps"] = option(
        "auto", "format of the manifest; auto: detected from its columns"
    )
    audio_dir: str | None = option(
        None, "path or URI of the audio's directory", default_text="the manifest's", min_length=1
    )
    policy: str = option("miniature", "policy whose codec encodes: a directory or a name", min_length=1)
    max_quarantined_share: float = option(
        0.1, "share of the clips that may be quarantined before the job stops", ge=0, le=1
    )
    latents_dtype: LatentsDtype = "float32"
    shard_clips: int = option(128, "clips per shard", unit="clips", ge=1, le=100_000)
    batch_clips: int = option(
        4,
        "clips that a worker decodes or encodes together; more need more memory",
        flag="codec-batch-clips",
        ge=1,
        le=64,
    )
    codec: CodecOptions = CodecOptions()


COMMAND = Command("python jobs/prepare.py", DESCRIPTION, EXAMPLES)
