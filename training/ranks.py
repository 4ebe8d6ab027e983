"""Several training processes as one, under torchrun: which of them this is, and the mean of their gradients."""
from __future__ import annotations

import os

import torch
import torch.distributed as dist


def start() -> tuple[int, int]:
    """The number of this process and how many there are. Where there are several, each computes with one thread."""
    rank, ranks = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    if ranks > 1:
        dist.init_process_group("gloo")
        torch.set_num_threads(1)
    return rank, ranks


def average_gradients(params: list[torch.Tensor], ranks: int) -> None:
    """Replaces the gradients by their means over all processes."""
    if ranks > 1:
        grads = [q.grad for q in params if q.grad is not None]
        flat = torch.cat([q.flatten() for q in grads])
        dist.all_reduce(flat)
        for q, mean in zip(grads, flat.div_(ranks).split([q.numel() for q in grads])):
            q.copy_(mean.view_as(q))
