"""The rule of masked_sgd on a GPU, which Triton inlines into the kernel of every masked optimizer."""

import triton
import triton.language as tl


@triton.jit
def rule(weight, gradient, state, step, h):
    lr, momentum, keep, decay, shrink, _, nesterov = h
    gradient = tl.where(decay != 0, tl.fma(tl.zeros_like(weight) + decay, weight, gradient), gradient)
    old = state[0]
    buffer = tl.where(step == 1, gradient, tl.fma(tl.zeros_like(old) + momentum, old, keep * gradient))
    ahead = tl.fma(tl.zeros_like(buffer) + momentum, buffer, gradient)
    update = tl.where(momentum != 0, tl.where(nesterov != 0, ahead, buffer), gradient)
    return tl.fma(tl.zeros_like(update) - lr, update, shrink * weight), (buffer,)
