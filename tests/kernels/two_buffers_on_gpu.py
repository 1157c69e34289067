"""The rules of two_buffers in Triton."""

import triton
import triton.language as tl


@triton.jit
def rule(weight, gradient, state, step, h):
    lr, keep_mean, keep_square, _ = h
    mean = keep_mean * state[0] + gradient / step
    square = keep_square * state[1] + gradient * gradient
    return weight - lr * mean / (tl.sqrt(square) + lr), (mean, square)


@triton.jit
def rule_without_state(weight, gradient, state, step, h):
    return weight - h[0] * gradient, ()
