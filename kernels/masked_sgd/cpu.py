"""The rule of masked_sgd on the CPU, which Numba inlines into the pass of every masked optimizer."""


def rule(h, weight, gradient, state, step):
    (buffer,) = state
    if h.weight_decay != 0:
        gradient += h.weight_decay * weight
    buffer = gradient if step == 1 else h.momentum * buffer + h.keep * gradient
    ahead = h.nesterov != 0 and h.momentum != 0
    return h.shrink * weight - h.lr * (gradient + h.momentum * buffer if ahead else buffer), (buffer,)
