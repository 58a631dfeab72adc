"""The few collectives the core needs, on gloo and nccl; each is the identity without a process group.

Nothing here carries a gradient. Losses exchange embeddings and log-sum-exps inside their own autograd
(`sslcore.losses.exchange`); memories sum their statistics. Every rank must make the same calls in the same order.
"""

import torch
import torch.distributed as dist
from torch import Tensor


def is_distributed() -> bool:
    """Whether more than one process takes part."""
    return world_size() > 1


def world_size() -> int:
    """Number of processes, 1 without a process group."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """This process's number, 0 without a process group."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


@torch.no_grad()
def all_reduce_sum(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Sums over the processes, one per tensor; the arguments stay as they are.

    Tensors of one dtype and device travel together, so that sums and counts cost one message.
    """
    return _all_reduce(tensors, "sum")


@torch.no_grad()
def all_reduce_amax(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Elementwise maxima over the processes, one per tensor; the arguments stay as they are."""
    return _all_reduce(tensors, "max")


@torch.no_grad()
def all_gather_rows(x: Tensor) -> Tensor:
    """Rows of all processes, (W * n, ...), in rank order; every process must bring the same number of rows.

    Raises:
        ValueError: the processes bring different numbers of rows. Checked where it costs no wait for a GPU, that is
            for tensors on the CPU.
    """
    world = world_size()
    if world == 1:
        return x
    if x.device.type == "cpu":
        _check_equal_rows(x.shape[0], world)
    gathered = x.new_empty((world * x.shape[0], *x.shape[1:]))
    dist.all_gather_into_tensor(gathered, x.contiguous())
    return gathered


def _check_equal_rows(rows: int, world: int) -> None:
    counts = torch.empty(world, dtype=torch.int64)
    dist.all_gather_into_tensor(counts, torch.tensor([rows]))
    if not bool((counts == rows).all()):
        raise ValueError(
            f"every process must bring the same number of rows, not {counts.tolist()}; drop the last, smaller batch"
        )


def _all_reduce(tensors: tuple[Tensor, ...], kind: str) -> tuple[Tensor, ...]:
    if not is_distributed():
        return tensors
    operation = dist.ReduceOp.SUM if kind == "sum" else dist.ReduceOp.MAX
    reduced: list[Tensor] = [torch.empty(0)] * len(tensors)
    together: dict[tuple[torch.dtype, torch.device], list[int]] = {}
    for index, tensor in enumerate(tensors):
        together.setdefault((tensor.dtype, tensor.device), []).append(index)
    for indices in together.values():
        message = torch.cat([tensors[i].reshape(-1) for i in indices])
        dist.all_reduce(message, operation)
        for i, part in zip(indices, message.split([tensors[i].numel() for i in indices]), strict=True):
            reduced[i] = part.view(tensors[i].shape)
    return tuple(reduced)
