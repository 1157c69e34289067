"""The rules of masked_rmsprop on a GPU, which Triton inlines into the kernel of every masked optimizer.

Division and square root are rounded to nearest, as in torch's kernel. Checked in Triton's interpreter and compiled for
GPUs; not yet run on one.
"""

import triton
import triton.language as tl


@triton.jit
def rule(weight, gradient, state, step, h):
    gradient, square = _averaged(weight, gradient, state[0], h)
    return _moved(weight, tl.math.div_rn(gradient, tl.math.sqrt_rn(square) + h[3]), h), (square,)


@triton.jit
def rule_momentum(weight, gradient, state, step, h):
    gradient, square = _averaged(weight, gradient, state[0], h)
    buffer = _buffer(state[1], tl.math.div_rn(gradient, tl.math.sqrt_rn(square) + h[3]), h)
    return _moved(weight, buffer, h), (square, buffer)


@triton.jit
def rule_centered(weight, gradient, state, step, h):
    gradient, square = _averaged(weight, gradient, state[0], h)
    mean, size = _centered(gradient, square, state[1], h)
    return _moved(weight, tl.math.div_rn(gradient, size), h), (square, mean)


@triton.jit
def rule_centered_momentum(weight, gradient, state, step, h):
    gradient, square = _averaged(weight, gradient, state[0], h)
    mean, size = _centered(gradient, square, state[1], h)
    buffer = _buffer(state[2], tl.math.div_rn(gradient, size), h)
    return _moved(weight, buffer, h), (square, mean, buffer)


@triton.jit
def _averaged(weight, gradient, square, h):
    _, alpha, keep, _, decay, _, _, _ = h
    gradient = tl.where(decay != 0, tl.fma(tl.zeros_like(weight) + decay, weight, gradient), gradient)
    return gradient, tl.fma(keep * gradient, gradient, alpha * square)


@triton.jit
def _centered(gradient, square, mean, h):
    _, _, keep, eps, _, _, centered, _ = h
    mean = tl.fma(tl.zeros_like(mean) + keep, gradient - mean, mean)
    variance = tl.where(centered != 0, tl.fma(-mean, mean, square), square)
    return mean, tl.math.sqrt_rn(tl.where(variance < 0, 0.0, variance)) + eps


@triton.jit
def _buffer(buffer, update, h):
    return tl.fma(tl.zeros_like(buffer) + h[5], buffer, update)


@triton.jit
def _moved(weight, update, h):
    return tl.fma(tl.zeros_like(update) - h[0], update, weight)
