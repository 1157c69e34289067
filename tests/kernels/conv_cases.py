"""Inputs for conv_bn and its answers, for the tests of all its implementations."""

import torch

from sparselt.kernels.conv_bn.reference import conv_bn as reference

TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 2**-6}
"""Of the largest number of a tensor. bfloat16: two units, as the input is rounded before the product and after."""

SHAPES = {  # networks, images, height, width, channels in and out, side, stride
    "3 to 16": (3, 5, 7, 9, 3, 16, 3, 1),
    "16 to 16": (3, 5, 7, 9, 16, 16, 3, 1),
    "16 to 32, stride 2": (3, 5, 7, 9, 16, 32, 3, 2),
    "32 to 64, stride 2, even": (1, 2, 8, 6, 32, 64, 3, 2),
    "64 to 64": (1, 5, 7, 9, 64, 64, 3, 1),
    "16 to 32, 1×1, stride 2": (3, 5, 7, 9, 16, 32, 1, 2),
    "5 to 70, 1×1": (1, 3, 5, 4, 5, 70, 1, 1),
    "70 to 5": (1, 3, 5, 4, 70, 5, 3, 1),
}


class Case:
    """Stacked inputs, weights, scale and shift of networks, and gradients of all that conv_bn returns."""

    def __init__(self, shape, dtype, *, normalized=True, seed=0):
        generator = torch.Generator().manual_seed(seed)
        networks, images, height, width, channels, outs, side, self.stride = shape

        def tensor(*size):
            return torch.randn(size, generator=generator, dtype=torch.float64)

        self.real = torch.float64 if dtype == torch.float64 else torch.float32
        self.input = (tensor(networks, images, height, width, channels) + 0.5).to(dtype)
        self.weight = (tensor(networks, outs, side, side, channels) / (side * channels**0.5)).to(dtype)
        self.scale, self.shift = None, None
        if normalized:
            self.scale, self.shift = (tensor(networks, channels).to(self.real) for _ in range(2))
        out = reference(self.input.double(), self.weight.double(), stride=self.stride)[0]
        self.gradient = tensor(*out.shape).to(dtype)
        self.by_mean, self.by_var = (tensor(networks, outs).to(self.real) for _ in range(2))

    @property
    def arguments(self):
        return self.input, self.weight, self.scale, self.shift, self.stride

    def of(self, networks: slice) -> "Case":
        """The same for some of the networks."""
        case = object.__new__(Case)
        case.__dict__.update(
            {name: value[networks] if isinstance(value, torch.Tensor) else value for name, value in vars(self).items()}
        )
        return case

    def answers(self, out: torch.Tensor) -> dict[str, torch.Tensor]:
        """Everything by the reference, in float64. out: the output of the implementation, for its statistics."""
        leaves = {name: getattr(self, name) for name in ("input", "weight", "scale", "shift")}
        leaves = {name: t.double().clone().requires_grad_() for name, t in leaves.items() if t is not None}
        made = reference(**leaves, stride=self.stride)
        torch.autograd.backward(made, [g.double() for g in (self.gradient, self.by_mean, self.by_var)])
        var, mean = torch.var_mean(out.double(), (1, 2, 3), correction=0)
        answers = {"out": made[0].detach(), "mean": mean, "var": var}
        return answers | {f"by_{name}": leaf.grad for name, leaf in leaves.items()}

    def through_statistics(self, out: torch.Tensor, mean: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Slope and offset of the gradient that reaches the output through mean and variance."""
        count = out[0, ..., 0].numel()
        slope = 2 * self.by_var / count
        return slope, self.by_mean / count - slope * mean

    def results(self, module) -> dict[str, torch.Tensor]:
        """What the three functions of an implementation make."""
        out, mean, var = module.conv_bn(*self.arguments)
        back = self.gradient, out, *self.through_statistics(out, mean), *self.arguments
        by_input, sums = module.conv_bn_by_input(*back)
        found = {"out": out, "mean": mean, "var": var, "by_weight": module.conv_bn_by_weight(*back)}
        return found | {"by_input": by_input, "by_shift": sums[:, 0], "by_scale": sums[:, 1]}
