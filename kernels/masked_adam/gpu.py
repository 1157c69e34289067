"""The rules of masked_adam on a GPU, which Triton inlines into the kernel of every masked optimizer.

Division and square root are rounded to nearest, as in torch's kernel. Bias corrections are computed from a step count
in GPU memory, so a replayed CUDA graph counts on. Checked in Triton's interpreter and compiled for GPUs; not yet run on
one.
"""

import triton
import triton.language as tl


@triton.jit
def rule(weight, gradient, state, step, h):
    mean, square = _averages(weight, gradient, state[0], state[1], h)
    return _moved(weight, mean, square, step, h), (mean, square)


@triton.jit
def amsgrad_rule(weight, gradient, state, step, h):
    mean, square = _averages(weight, gradient, state[0], state[1], h)
    largest = tl.where((square > state[2]) | (square != square), square, state[2])
    return _moved(weight, mean, tl.where(h[9] != 0, largest, square), step, h), (mean, square, largest)


@triton.jit
def _averages(weight, gradient, mean, square, h):
    _, keep1, _, beta2, keep2, _, _, decay, _, _, _ = h
    zero = tl.zeros_like(weight)
    gradient = tl.where(decay != 0, tl.fma(zero + decay, weight, gradient), gradient)
    mean = tl.fma(zero + keep1, gradient - mean, mean)
    return mean, tl.fma(keep2 * gradient, gradient, beta2 * square)


@triton.jit
def _moved(weight, mean, square, step, h):
    lr, _, log1, _, _, log2, eps, _, shrink, _, _ = h
    zero = tl.zeros_like(weight)
    rate = tl.math.div_rn(lr, _reached(log1, step))
    correction = tl.math.div_rn(tl.full((), 1.0, tl.float32), tl.math.sqrt_rn(_reached(log2, step)))
    size = tl.fma(zero + correction, tl.math.sqrt_rn(square), zero + eps)
    return tl.fma(zero + shrink, weight, -tl.math.div_rn(rate * mean, size))


@triton.jit
def _reached(log, step):
    """1 - exp(log·step): as a series where the difference would cancel. A loop here would narrow memory accesses."""
    x = log * step
    series = tl.full((), 1.0, tl.float32)
    for k in tl.static_range(7):
        series = 1.0 + x * series * (1.0 / (8 - k))
    return tl.where(x > -0.5, -x * series, 1.0 - tl.exp(x))
