"""Measures whether conv_bn is faster than the library's kernels, on the device that runs. Not run on a GPU yet."""

from collections.abc import Callable
from functools import lru_cache
from statistics import median

import torch
from torch import Tensor
from torch.nn import functional as F

from .layer import Layer

_ROUNDS, _SLEEP_CYCLES = 20, 8_000_000  # about 4 ms: the host has queued a replay by then
_EPS = 1e-5


class Comparison:
    """Batch norm, ReLU and convolution of K networks, forward and backward: by conv_bn, and by torch.

    `ours` makes outputs (K, N, H', W', Cout), `library` the same in a list. Ours applies the batch norm before the
    convolution and takes the statistics of the one after: a whole batch norm a layer, as in the library. On a GPU the
    library's networks run on a stream each, as in a captured cohort.
    """

    def __init__(self, conv_bn: Callable, layer: Layer, networks: int, dtype: torch.dtype, device: torch.device):
        generator = torch.Generator(device).manual_seed(0)

        def random(*shape: int) -> Tensor:
            return torch.randn(networks, *shape, generator=generator, device=device)

        self._conv_bn, self._stride, self._padding = conv_bn, layer.stride, layer.side // 2
        images = random(layer.batch, layer.height, layer.width, layer.channels_in).to(dtype)
        weight = random(layer.channels_out, layer.side, layer.side, layer.channels_in) / layer.columns**0.5
        gamma, beta = random(layer.channels_in), random(layer.channels_in)
        var, mean = torch.var_mean(images.float(), (1, 2, 3), correction=0)
        scale = gamma * torch.rsqrt(var + _EPS)
        shift = beta - mean * scale
        self._leaves = [leaf.requires_grad_() for leaf in (images, weight.to(dtype), scale, shift)]
        out = random(layer.batch, layer.out_height, layer.out_width, layer.channels_out).to(dtype)
        self._gradients = [out, random(layer.channels_out), random(layer.channels_out)]
        each = [
            [_channels_second(images[k]), _channels_second(self._leaves[1][k]), gamma[k], beta[k]]
            for k in range(networks)
        ]
        self._networks = [[leaf.detach().requires_grad_() for leaf in leaves] for leaves in each]
        self._streams = [torch.cuda.Stream(device) for _ in range(networks)] if device.type == "cuda" else []

    def ours(self) -> Tensor:
        made = self._conv_bn(*self._leaves, stride=self._stride)
        torch.autograd.grad(made, self._leaves, self._gradients)
        return made[0]

    def library(self) -> list[Tensor]:
        if not self._streams:
            return [self._one_by_library(k) for k in range(len(self._networks))]
        here, outs = torch.cuda.current_stream(), []
        for k, stream in enumerate(self._streams):
            stream.wait_stream(here)
            with torch.cuda.stream(stream):
                outs.append(self._one_by_library(k))
        for stream in self._streams:
            here.wait_stream(stream)
        return outs

    def _one_by_library(self, k: int) -> Tensor:
        images, weight, gamma, beta = self._networks[k]
        normal = F.relu(F.batch_norm(images, None, None, gamma, beta, training=True, eps=_EPS))
        out = F.conv2d(normal, weight, stride=self._stride, padding=self._padding)
        torch.autograd.grad(out, self._networks[k], _channels_second(self._gradients[0][k]))
        return out.detach().permute(0, 2, 3, 1)


@lru_cache(maxsize=1024)
def is_faster(conv_bn: Callable, layer: Layer, networks: int, dtype: torch.dtype, device: int) -> bool:
    """Whether `ours` takes less time than `library` on this CUDA device, both as replayed graphs. Measured once."""
    with torch.cuda.device(device):
        comparison = Comparison(conv_bn, layer, networks, dtype, torch.device("cuda", device))
        return _seconds(comparison.ours) < _seconds(comparison.library)


def _seconds(call: Callable[[], object]) -> float:
    """The median time of a replay of `call` on the device."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):  # compiles the kernels, and lets cuDNN choose its own, which a capture cannot
            call()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    times = []
    for _ in range(_ROUNDS):
        first, last = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        torch.cuda._sleep(_SLEEP_CYCLES)
        first.record()
        graph.replay()
        last.record()
        last.synchronize()
        times.append(first.elapsed_time(last))
    return median(times) / 1e3


def _channels_second(images: Tensor) -> Tensor:
    return images.permute(0, 3, 1, 2)
