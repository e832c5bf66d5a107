"""What the benchmarks share: timing side by side, memory, tables and images of noise.

What is compared runs in turn, after warm-up; medians and their ratios count.
"""

import os
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np


def noise(side: int, seed: int = 0) -> np.ndarray:
    """[side, side, 3] uint8 of noise, an image for networks with random weights."""
    return np.random.default_rng(seed).integers(0, 255, (side, side, 3)).astype(np.uint8)


def compiled() -> dict[str, str]:
    """The environment of a process whose modules are compiled once, as an installed package's are.

    Where Python must not write into its folders, it otherwise compiles them in each process.
    """
    cache = os.path.join(tempfile.gettempdir(), "mrcnn-benchmark-pycache")
    environment = {**os.environ, "PYTHONPYCACHEPREFIX": cache}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    return environment


class Cost(NamedTuple):
    """What a call took: seconds of the clock, and of the processor in all threads together."""

    wall: float
    cpu: float


def cost(function: Callable) -> Cost:
    """The `Cost` of one call."""
    cpu = time.process_time()
    wall = time.perf_counter()
    function()
    wall = time.perf_counter() - wall
    return Cost(wall, time.process_time() - cpu)


def rounds(
    functions: Mapping[str, Callable], repeats: int = 7, warmup: int = 1
) -> dict[str, list[Cost]]:
    """{name: its `Cost` in each timed round}, the functions called in turn."""
    costs: dict[str, list[Cost]] = {name: [] for name in functions}
    for turn in range(warmup + repeats):
        for name, function in functions.items():
            taken = cost(function)
            if turn >= warmup:
                costs[name].append(taken)
    return costs


def median(costs: Sequence[Cost]) -> Cost:
    """Medians of the two kinds of seconds."""
    return Cost(*(statistics.median(values) for values in zip(*costs)))


def ratio(costs: Sequence[Cost], of: Sequence[Cost]) -> Cost:
    """Medians of the ratios of each round.

    A busy machine moves these less than it moves the seconds.
    """
    return median([Cost(a.wall / b.wall, a.cpu / b.cpu) for a, b in zip(costs, of)])


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
    costs = rounds(functions, repeats, warmup)
    return {name: median(values).wall for name, values in costs.items()}


def peak_memory() -> float:
    """GB of memory that this process has held at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def resident_memory() -> float:
    """MB of memory that this process holds now."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def network_config(backbone: str, side: int, **settings: Any) -> Any:
    """The `Config` of a network of COCO's classes on squares, one at a time, no score too low."""
    from mrcnn.config import Config

    values = {
        "NAME": "benchmark",
        "NUM_CLASSES": 81,
        "BACKBONE": backbone,
        "IMAGE_MIN_DIM": side,
        "IMAGE_MAX_DIM": side,
        "IMAGES_PER_GPU": 1,
        "DETECTION_MIN_CONFIDENCE": 0.0,
    }
    return Config(**{**values, **settings})


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Rows of strings as a Markdown table."""
    rule = ["---"] * len(header)
    lines = ["| " + " | ".join(row) + " |" for row in [header, rule, *rows]]
    return "\n".join(lines)
