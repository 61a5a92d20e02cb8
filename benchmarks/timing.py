"""Median times of functions that run interleaved in one process, and peak memory of a process."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from statistics import median

import torch


def interleaved(
    functions: Mapping[str, Callable[[], object]], *, device: str = "cpu", seconds: float = 1.0
) -> dict[str, float]:
    """Median seconds of each function; the functions are called in turn, round by round.

    A first round warms up. At least three follow, until ``seconds`` or 200 rounds are over; they
    end early after ten times ``seconds``. If the first round takes that long, it is the only one.
    On a processor with one thread, processor time counts: it leaves out waits for other processes.
    """
    times: dict[str, list[float]] = {name: [] for name in functions}
    start = time.perf_counter()
    for name, function in functions.items():
        times[name].append(_seconds(function, device))
    if time.perf_counter() - start < 10 * seconds:  # the first round was the warm-up
        times = {name: [] for name in functions}
        start = time.perf_counter()
    rounds = 0
    while not _enough(rounds, time.perf_counter() - start, seconds):
        for name, function in functions.items():
            times[name].append(_seconds(function, device))
        rounds += 1
    return {name: median(values) for name, values in times.items()}


def _enough(rounds: int, spent: float, seconds: float) -> bool:
    return rounds >= 200 or spent > 10 * seconds or (rounds >= 3 and spent > seconds)


def _seconds(function: Callable[[], object], device: str) -> float:
    single_threaded = device == "cpu" and torch.get_num_threads() == 1
    clock = time.process_time if single_threaded else time.perf_counter
    _wait(device)
    start = clock()
    function()
    _wait(device)
    return clock() - start


def _wait(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def peak_memory(code: str) -> int:
    """Bytes by which a fresh process's peak memory grows while it calls ``measured()``.

    ``code`` defines ``measured`` and prepares what it needs beforehand. This works on Linux only.
    """
    # getrusage is not used: on Linux a child inherits the peak of the process that started it.
    program = (
        "def peak():\n"
        "    lines = open('/proc/self/status').read().splitlines()\n"
        "    return int(next(line for line in lines if line.startswith('VmHWM')).split()[1])\n"
        f"{code}\n"
        "before = peak()\n"
        "measured()\n"
        "print(peak() - before)\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    )
    return 1024 * int(result.stdout.split()[-1])
