"""Run a function in several gloo processes, forked so that nothing is imported anew."""

import multiprocessing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist


def in_processes(function: Callable[[int], Any], folder: Path, count: int = 2) -> list[Any]:
    """[function(rank) for every rank], each in a process of one gloo group. Values must be saveable by torch."""
    context = multiprocessing.get_context("fork")
    meeting = folder / "meeting"
    processes = [context.Process(target=_work, args=(function, meeting, folder, r, count)) for r in range(count)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
        assert process.exitcode == 0, f"a process ended with code {process.exitcode}"
    return [torch.load(folder / f"result-{r}", weights_only=False) for r in range(count)]


def _work(function: Callable[[int], Any], meeting: Path, folder: Path, rank: int, count: int) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=count)
    torch.save(function(rank), folder / f"result-{rank}")
    dist.destroy_process_group()
