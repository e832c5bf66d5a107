"""What the benchmarks share: timing side by side, memory, tables and images of noise.

What is compared runs in turn, after warm-up; medians and their ratios count.
"""

import os
import resource
import statistics
import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np


def noise(side: int, seed: int = 0) -> np.ndarray:
    """[side, side, 3] uint8 of noise, an image for networks with random weights."""
    return np.random.default_rng(seed).integers(0, 255, (side, side, 3)).astype(np.uint8)


def alternate(
    functions: Mapping[str, Callable], repeats: int = 7, warmup: int = 1
) -> dict[str, float]:
    """Median seconds of each function, called in turn so that the machine's moods hit all alike.

    Args:
        functions: {name: f()}.
        repeats: timed rounds.
        warmup: rounds that don't count.

    Returns:
        {name: median seconds}.
    """
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for turn in range(warmup + repeats):
        for name, function in functions.items():
            start = time.perf_counter()
            function()
            if turn >= warmup:
                seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


def peak_memory() -> float:
    """GB of memory that this process has held at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def resident_memory() -> float:
    """MB of memory that this process holds now."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Rows of strings as a Markdown table."""
    rule = ["---"] * len(header)
    lines = ["| " + " | ".join(row) + " |" for row in [header, rule, *rows]]
    return "\n".join(lines)
