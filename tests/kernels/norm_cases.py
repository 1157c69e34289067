"""Inputs for norm_act and its answers, for the tests of all its implementations."""

import torch

from sparselt.kernels.norm_act.reference import norm_act as reference

TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 2**-7}
"""Of the largest number of a tensor. bfloat16: a unit in the last place."""


class Case:
    """A batch around a mean that is large beside its deviation, in channels last, with gradient and parameters."""

    def __init__(self, shape, dtype, *, residual=False, relu=True, mean=3.0, seed=0):
        generator = torch.Generator().manual_seed(seed)

        def tensor(*size):
            return torch.randn(size, generator=generator, dtype=torch.float64)

        def images():
            return tensor(*shape).to(dtype).contiguous(memory_format=torch.channels_last)

        real = torch.float64 if dtype == torch.float64 else torch.float32
        self.input = (2 * images() + mean).contiguous(memory_format=torch.channels_last)
        self.gradient, self.residual, self.relu = images(), images() if residual else None, relu
        self.weight, self.bias, self.running_mean = (tensor(shape[1]).to(real) for _ in range(3))
        self.running_var = tensor(shape[1]).square().to(real)
        if relu:  # rounding may put an output this close to zero on either side of ReLU, so it gets no gradient
            self.gradient[reference(**self._leaves(), relu=False, eps=1e-3).abs() < 1e-5] = 0

    def _leaves(self) -> dict[str, torch.Tensor]:
        given = {name: getattr(self, name) for name in ("input", "weight", "bias", "residual")}
        return {name: tensor.double() for name, tensor in given.items() if tensor is not None}

    def answers(self) -> dict[str, torch.Tensor]:
        """Output, gradients and running statistics by the reference, in float64."""
        leaves = {name: tensor.clone().requires_grad_() for name, tensor in self._leaves().items()}
        running = {name: getattr(self, name).double() for name in ("running_mean", "running_var")}
        out = reference(**leaves, **running, relu=self.relu, momentum=0.3, eps=1e-3)
        out.backward(self.gradient.double())
        found = {"out": out.detach()} | {f"by_{name}": leaf.grad for name, leaf in leaves.items()} | running
        return {name: tensor for name, tensor in found.items() if tensor is not None}

    def check(self, forward, backward, tolerance: float) -> None:
        """Holds an implementation's two functions to the answers."""
        mean, var = self.running_mean.clone(), self.running_var.clone()
        arguments = self.weight, self.bias, self.residual, mean, var, 0.3, 1e-3, self.relu
        out, *saved = forward(self.input, *arguments)
        kept = out if self.relu and self.residual is not None else None
        by_input, masked, by_weight, by_bias = backward(
            self.gradient, self.input, self.weight, self.bias, *saved, kept, self.relu
        )
        by_residual = self.gradient if kept is None else masked
        found = {"out": out, "by_input": by_input, "by_weight": by_weight, "by_bias": by_bias}
        found |= {"by_residual": by_residual, "running_mean": mean, "running_var": var}
        assert out.is_contiguous(memory_format=torch.channels_last) and out.dtype == self.input.dtype
        assert_close(found, self.answers(), tolerance)


def assert_close(found: dict[str, torch.Tensor], answers: dict[str, torch.Tensor], tolerance: float) -> None:
    """Every answer is found up to `tolerance` times its largest number."""
    for name, answer in answers.items():
        apart = (found[name].double() - answer).abs().max().item()
        assert apart <= tolerance * max(1.0, answer.abs().max().item()), (name, apart, answer.abs().max().item())
