"""Side-by-side timing: what is compared runs in turn, after warm-up; medians and their ratios
count."""

import os
import resource
import statistics
import time


def alternate(functions, repeats=7, warmup=1):
    """Median seconds of each function, called in turn so that the machine's moods hit all alike.

    Args:
        functions: {name: f()}.
        repeats: timed rounds.
        warmup: rounds that don't count.

    Returns:
        {name: median seconds}.
    """
    seconds = {name: [] for name in functions}
    for turn in range(warmup + repeats):
        for name, function in functions.items():
            start = time.perf_counter()
            function()
            if turn >= warmup:
                seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


def peak_memory():
    """GB of memory that this process has held at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def resident_memory():
    """MB of memory that this process holds now."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def table(header, rows):
    """Rows of strings as a Markdown table."""
    lines = ["| " + " | ".join(row) + " |" for row in [header, ["---"] * len(header), *rows]]
    return "\n".join(lines)
