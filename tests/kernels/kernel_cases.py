"""Networks of loose tensors for the kernel tests: shapes, memory orders, masks, options, and the float64 answer."""

from dataclasses import dataclass

import torch
from hypothesis import strategies as st
from torch import Tensor

from sparselt.kernels._optimizer.layout import live_places
from sparselt.kernels.masked_sgd import Columns, block_table, padded_offsets, reference

# Values are of order 1, so these are a few float32 roundings a step; bfloat16 parameters round at 2**-8.
TOLERANCE = {torch.float32: 4e-6, torch.float64: 1e-13, torch.bfloat16: 2e-2}


@dataclass(frozen=True)
class Options:
    lr: float = 0.1
    momentum: float = 0.9
    dampening: float = 0.0
    weight_decay: float = 0.0
    shrink: float = 1.0
    nesterov: bool = False
    maximize: bool = False

    def row(self) -> Columns:
        sign = -1.0 if self.maximize else 1.0
        keep, nesterov = 1 - self.dampening, float(self.nesterov)
        return Columns(self.lr, self.momentum, keep, self.weight_decay, self.shrink, sign, nesterov)


options = st.builds(
    Options,
    lr=st.sampled_from([0.0, 0.05, 1.0]),
    momentum=st.sampled_from([0.0, 0.9]),
    dampening=st.sampled_from([0.0, 0.3]),
    weight_decay=st.sampled_from([0.0, 0.1]),
    shrink=st.sampled_from([1.0, 0.95]),
    nesterov=st.booleans(),
    maximize=st.booleans(),
)
shapes = st.lists(
    st.one_of(
        st.tuples(st.integers(0, 40)),
        st.tuples(st.integers(1, 9), st.integers(1, 130)),
        st.tuples(st.integers(1, 5), st.integers(1, 7), st.integers(1, 3), st.integers(1, 3)),
        st.sampled_from([(), (1024,), (1025,), (5, 123, 3), (33, 31)]),
    ),
    min_size=1,
    max_size=4,
)
kinds_of_mask = st.sampled_from(["empty", "full", "one weight", "random", "few"])
memory = st.sampled_from(["contiguous", "channels last", "transposed"])


class Case:
    """Parameters with masks, and gradients with NaN and infinities for `steps` steps, on the CPU."""

    def __init__(self, shapes, order="contiguous", mask="random", dtype=torch.float32, special=True, seed=0, steps=3):
        generator = torch.Generator().manual_seed(seed)
        self.parameters = [arranged(torch.randn(s, generator=generator).to(dtype), order) for s in shapes]
        self.start = [p.clone() for p in self.parameters]
        self.masks = [drawn_mask(p.shape, mask, generator) for p in self.parameters]
        self.gradients = [[self._gradient(p, generator, special) for p in self.parameters] for _ in range(steps)]
        self.offsets, self.length = padded_offsets([p.numel() for p in self.parameters])

    def _gradient(self, p: Tensor, generator: torch.Generator, special: bool) -> Tensor:
        gradient = torch.randn(p.shape, generator=generator)
        if special:
            which = torch.randint(0, 40, p.shape, generator=generator)
            for value, number in ((0, float("nan")), (1, float("inf")), (2, float("-inf"))):
                gradient = torch.where(which == value, number, gradient)
        return torch.empty_like(p).copy_(gradient)

    def live(self) -> Tensor:
        """The masks as one flat bool tensor over the arenas, in physical order."""
        live = torch.zeros(self.length, dtype=torch.bool)
        for p, mask, offset in zip(self.parameters, self.masks, self.offsets, strict=True):
            live.as_strided(p.shape, p.stride(), offset).copy_(mask)
        return live

    def buffers(self, momentum: Tensor) -> list[Tensor]:
        return [momentum.as_strided(p.shape, p.stride(), o) for p, o in zip(self.parameters, self.offsets, strict=True)]

    def expanded(self, compact: Tensor) -> Tensor:
        """Live momentum as a flat arena, 0 where masked."""
        live = self.live()
        arena = compact.new_zeros(self.length)
        arena[live] = compact[live_places(live, block_table(live)[0])]
        return arena

    def expected(self, options: Options) -> list[tuple[Tensor, Tensor | None]]:
        """The float64 weights and buffers after all steps. Float64 is not rounded to bfloat16 in between."""
        answers = []
        for i, p in enumerate(self.start):
            weight, buffer = p.double(), None
            for gradients in self.gradients:
                weight, buffer = reference.masked_sgd(
                    weight, gradients[i].double(), buffer, self.masks[i], options.row()
                )
            answers.append((weight, buffer))
        return answers


def arranged(tensor: Tensor, order: str) -> Tensor:
    if order == "channels last" and tensor.dim() == 4:
        return tensor.contiguous(memory_format=torch.channels_last)
    if order == "transposed" and tensor.dim() == 2:
        return tensor.t().contiguous().t()
    return tensor


def drawn_mask(shape, kind: str, generator: torch.Generator) -> Tensor:
    if kind == "one weight":
        mask = torch.zeros(shape, dtype=torch.bool)
        mask.view(-1)[-1:] = True
        return mask
    density = {"empty": 0.0, "full": 1.0, "random": 0.5, "few": 0.05}[kind]
    return torch.rand(shape, generator=generator) < density


def assert_answers(case: Case, options: Options, momentum: Tensor, what: str) -> None:
    dtype = case.parameters[0].dtype
    for i, (weight, buffer) in enumerate(case.expected(options)):
        pairs = [("weight", case.parameters[i], weight)]
        if options.momentum != 0:
            pairs.append(("momentum", case.buffers(momentum)[i], buffer))
        for name, got, expected in pairs:
            message = f"{what}: {name} of parameter {i}, shape {tuple(got.shape)}, strides {got.stride()}, {options}"
            torch.testing.assert_close(
                got.double().cpu(),
                expected,
                rtol=TOLERANCE[dtype],
                atol=TOLERANCE[dtype],
                equal_nan=True,
                msg=lambda text, message=message: f"{message}\n{text}",
            )
            masked = got.cpu()[~case.masks[i]]
            assert not masked.any(), f"{message}: a masked element is not 0"
            assert not torch.signbit(masked.float()).any(), f"{message}: a masked element is -0.0"
