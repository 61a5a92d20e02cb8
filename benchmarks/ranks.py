"""Run a function in several processes that form a gloo group, and collect what each returns."""

from __future__ import annotations

import datetime
import multiprocessing
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

_SECONDS = 120


def run_ranks(
    function: Callable[..., Any], count: int, *arguments: Any, timeout: float = 60
) -> list[Any]:
    """Call ``function(rank, *arguments)`` in ``count`` processes; return its results by rank.

    The result of a process that raises is its error; that of one that dies or hangs is None.
    """
    # To save time, torch is imported by one process, which is then forked for every rank.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch.distributed.fsdp", "isoreg"])
    with tempfile.TemporaryDirectory() as folder:
        processes = [
            context.Process(target=_run, args=(function, rank, count, folder, timeout, arguments))
            for rank in range(count)
        ]
        for process in processes:
            process.start()
        for process in processes:
            process.join(_SECONDS)
            process.kill()
        files = [Path(folder) / f"{rank}.pt" for rank in range(count)]
        return [torch.load(file, weights_only=False) if file.exists() else None for file in files]


def _run(
    function: Callable[..., Any],
    rank: int,
    count: int,
    folder: str,
    timeout: float,
    arguments: tuple[Any, ...],
) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder}/meet",
        rank=rank,
        world_size=count,
        timeout=datetime.timedelta(seconds=timeout),
    )
    try:
        result = function(rank, *arguments)
    except Exception as error:
        traceback.print_exc()
        result = error
    torch.save(result, f"{folder}/{rank}.pt")
    dist.destroy_process_group()
