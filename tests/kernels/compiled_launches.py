"""The launches of all Triton kernels, compiled for sm_90 with the constants that Triton makes of their arguments.

If an integer argument is 1, Triton compiles another kernel with this constant. Triton's interpreter does not, nor do
the tests that compile by signature. Here the host code runs on CPU tensors, and its launches compile kernels without
running them.

Run by test_compiled_launches.py, in a process of its own, for another driver takes the place of Triton's.
"""

from collections.abc import Callable, Iterator

import torch
from kernel_cases import Case, Options
from triton.backends.compiler import GPUTarget
from triton.runtime import driver, jit

from sparselt.kernels._optimizer import Launch, gpu
from sparselt.kernels._optimizer.layout import Layout, pack_bits
from sparselt.kernels._tensors import addresses_of
from sparselt.kernels.augment import gpu as augment_gpu
from sparselt.kernels.conv_bn import gpu as conv_gpu
from sparselt.kernels.interpolate import gpu as interpolate_gpu
from sparselt.kernels.magnitude import gpu as magnitude_gpu
from sparselt.kernels.masked_sgd import operation
from sparselt.kernels.norm_act import gpu as norm_gpu

SHARED_BYTES = 232_448  # that a program may take on sm_90


class Sm90:
    """The parts of Triton's driver that a compilation uses."""

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int | None = None) -> int:
        return 0

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", 90, 32)

    def get_active_torch_device(self) -> torch.device:
        return torch.device("cpu")


def launches() -> Iterator[tuple[str, Callable[[], object]]]:
    """Each kernel with the sizes that its users have, and with sizes of 1."""
    for padding in (0, 1, 4):
        yield f"augment, padding {padding}", lambda padding=padding: augment(3, padding)
    yield "augment, one channel", lambda: augment(1, 1)
    yield "masked_sgd", lambda: masked_sgd([(16, 5, 3, 3), (5,)])
    yield "masked_sgd, one weight", lambda: masked_sgd([(1,)])
    for points, plane in ((1, False), (33, False), (1, True)):
        yield f"interpolate, {points} points", lambda points=points, plane=plane: interpolate(points, plane)
    for sizes in ((5000, 7), (1,)):
        yield f"magnitude, {sizes}", lambda sizes=sizes: magnitude(sizes)
    for shape in ((128, 16, 32, 32), (1, 1, 2, 1)):
        yield f"norm_act, {shape}", lambda shape=shape: norm_act(shape)
    for size in (16, 1):
        yield f"conv_bn, {size} channels", lambda size=size: conv_bn(size)


def augment(channels: int, padding: int) -> None:
    images, indices = torch.zeros(2, channels, 8, 8, dtype=torch.uint8), torch.arange(2)
    last = channels > 1
    augment_gpu.augment(
        images, indices, 1, 1, None, None, padding, True, [0.5] * channels, [0.5] * channels, 255.0, last, torch.float32
    )


def masked_sgd(shapes: list[tuple[int, ...]]) -> None:
    case = Case(shapes, special=False)
    gpu.step(
        operation,
        Launch(
            layout=Layout([p.numel() for p in case.parameters], case.offsets, [0] * len(shapes)),
            dtype=torch.float32,
            addresses=addresses_of(case.parameters, case.gradients[0]),
            state=torch.zeros(1, case.length),
            mask=pack_bits(case.live()),
            hyperparameters=torch.tensor([Options().row()]),
            first_step=True,
        ),
    )


def interpolate(points: int, plane: bool) -> None:
    ends = [[torch.zeros(1024), torch.zeros(1)] for _ in range(3)]
    out = [torch.zeros(points, 1024), torch.zeros(points, 1)]
    third = ends[2] if plane else []
    interpolate_gpu.interpolate(out, ends[0], ends[1], third, torch.zeros(2, points, 2), [None, None], [True, False])


def magnitude(sizes: tuple[int, ...]) -> None:
    weights, masks = [torch.randn(size) for size in sizes], [torch.ones(size, dtype=torch.bool) for size in sizes]
    value, ties, _, _ = magnitude_gpu.threshold(weights, masks, torch.tensor([1]), False)
    magnitude_gpu.keep(weights, masks, value, ties, False)


def norm_act(shape: tuple[int, ...]) -> None:
    x = torch.randn(shape).contiguous(memory_format=torch.channels_last)
    weight, bias, mean, var = (torch.ones(shape[1]) for _ in range(4))
    out, *saved = norm_gpu.norm_act(x, weight, bias, x, mean, var, 0.1, 1e-5, True)
    norm_gpu.norm_act_backward(x, x, weight, bias, *saved, out, True)


def conv_bn(size: int) -> None:
    x, weight, scale = torch.zeros(1, 2, 8, 8, size), torch.zeros(1, size, 3, 3, size), torch.ones(1, size)
    out, _, _ = conv_gpu.conv_bn(x, weight, scale, scale, 1)
    conv_gpu.conv_bn_by_weight(out, out, scale, scale, x, weight, scale, scale, 1)
    conv_gpu.conv_bn_by_input(out, out, scale, scale, x, weight, scale, scale, 1)


def main() -> None:
    compiled = []
    launch = jit.JITFunction.run

    def compile_only(self, *arguments, grid, warmup, **options):
        kernel = launch(self, *arguments, grid=grid, warmup=True, **options)
        compiled.append(self.__name__)
        assert kernel.metadata.shared <= SHARED_BYTES, (self.__name__, kernel.metadata.shared)
        return kernel

    driver.set_active(Sm90())
    jit.JITFunction.run = compile_only
    for name, call in launches():
        before = len(compiled)
        try:
            call()
        except Exception as error:
            raise SystemExit(f"{name}: {error}") from error
        assert len(compiled) > before, f"{name}: nothing was launched"
    print(*sorted(set(compiled)))


if __name__ == "__main__":
    main()
