"""Timing of several sides in turn, round after round, so that other load on the machine affects all of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch.utils.flop_counter import FlopCounterMode

Lap = Callable[[str], None]
"""A run calls it with the name of each part of its work when the part is done."""

Run = Callable[[Lap], None]

Precision = Literal["fp32", "bf16"]

PRECISIONS: tuple[Precision, ...] = ("fp32", "bf16")

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Side:
    """One side of a comparison.

    Attributes:
        work: amount of work of a run, in ``unit``.
        against: names of the sides that it is compared with.
    """

    name: str
    unit: str
    work: int
    precision: Precision
    against: tuple[str, ...] = ()


@dataclass(frozen=True)
class Laps:
    """Measurements from the start of a run to the end of a part of its work.

    Attributes:
        tflop: floating-point operations of a run / 1e12: matrix products, convolutions and attention.
        seconds: one value per round.
    """

    tflop: float
    seconds: list[float]


@dataclass(frozen=True)
class Measured:
    """A side's laps by part, and the peak memory in GB of each run if it was measured."""

    side: Side
    laps: dict[str, Laps]
    peak_gb: list[float]


def time_sides(
    sides: Sequence[tuple[Side, Run]],
    rounds: int,
    device: str,
    say: Callable[[str], None],
    to_compile: Sequence[Any],
) -> list[Measured]:
    """Times all sides in turn, after one run of each to count its operations.

    Args:
        say: called with a line about each run.
        to_compile: transformers whose blocks are compiled after counting, in an untimed round.
    """
    measured: list[Measured] = []
    for side, run in sides:
        say(f"{side.name}: counting its operations")
        measured.append(Measured(side, {part: Laps(flop / 1e12, []) for part, flop in count_flop(run).items()}, []))
    for transformer in to_compile:
        transformer.compile_repeated_blocks()
    for number in range(0 if to_compile else 1, rounds + 1):
        for (side, run), result in zip(sides, measured, strict=True):
            seconds = laps_of(run, clock(device))
            shown = ", ".join(f"{part} {value:.2f} s" for part, value in seconds.items())
            say(f"{side.name}: round {number} of {rounds}: {shown}")
            for part, value in seconds.items() if number else ():
                result.laps[part].seconds.append(value)
    return measured


def laps_of(run: Run, reading: Callable[[], float]) -> dict[str, float]:
    """The increase of ``reading`` from the start of a run to the end of each part."""
    laps: dict[str, float] = {}
    start = reading()
    run(lambda part: laps.update({part: reading() - start}))
    return laps


def clock(device: str) -> Callable[[], float]:
    """A clock in seconds that first waits for the device's pending work."""

    def read() -> float:
        if device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    return read


def count_flop(run: Run) -> dict[str, float]:
    """Floating-point operations up to the end of each part, as torch counts them in uncompiled code."""
    with FlopCounterMode(display=False) as counter:
        return laps_of(run, counter.get_total_flops)


def matmul_tflops(device: str, precision: Precision, repeats: int = 5) -> float:
    """The highest TFLOP/s of a product of large square matrices: the ceiling for a model."""
    width = 8192 if device == "cuda" else 2048
    left, right = (torch.randn(width, width, device=device, dtype=DTYPES[precision]) for _ in range(2))

    def multiply(lap: Lap) -> None:
        torch.mm(left, right)
        lap("product")

    fastest = min(laps_of(multiply, clock(device))["product"] for _ in range(repeats))
    return 2 * width**3 / fastest / 1e12
