"""A masked network on several processes with DistributedDataParallel. Every process ends with the same weights.

torchrun --nproc-per-node 2 examples/frameworks/ddp.py
"""

import torch
import torch.distributed as dist
import torch.distributed.nn  # first imported after init_process_group, it holds the group, whose threads abort exits
from loop import BATCH, IMAGES, LABELS, network
from torch.nn.parallel import DistributedDataParallel

from sparselt import Mask, MaskedSGD, magnitude_prune


def train(steps: int = 30) -> torch.nn.Module:
    model = network()
    mask = magnitude_prune(model, Mask.ones_like(model), fraction=0.5).broadcast()  # that of rank 0, on every rank
    mask.check_equal_across_ranks()  # also where each rank has made its mask by itself
    parallel = DistributedDataParallel(model)
    optimizer = MaskedSGD(parallel.named_parameters(), lr=0.1, momentum=0.9, mask=mask)  # "module." does not matter
    rank, ranks = dist.get_rank(), dist.get_world_size()
    for step in range(steps):
        batch = torch.arange(step * BATCH, (step + 1) * BATCH)[rank::ranks] % len(LABELS)
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(parallel(IMAGES[batch]), LABELS[batch]).backward()
        optimizer.step()
    assert all(not model.get_parameter(name)[~layer].any() for name, layer in mask.items())
    return model


if __name__ == "__main__":
    dist.init_process_group("gloo")
    model = train()
    sums = [torch.zeros(1, dtype=torch.float64) for _ in range(dist.get_world_size())]
    dist.all_gather(sums, sum(p.detach().double().abs().sum() for p in model.parameters()).view(1))
    if dist.get_rank() == 0:
        print("equal on all ranks:", all(torch.equal(each, sums[0]) for each in sums))
    dist.destroy_process_group()
