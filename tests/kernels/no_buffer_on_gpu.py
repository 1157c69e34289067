"""The rule of no_buffer in Triton."""

import triton
import triton.language as tl  # noqa: F401  # the interpreter looks for it here


@triton.jit
def rule(weight, gradient, state, step, h):
    return weight - h[0] * gradient, ()
