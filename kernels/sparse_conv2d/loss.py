"""Cross-entropy on tiles: the loss, its gradient and that of the last layer's bias in one pass over the outputs."""

from functools import lru_cache

import numpy as np
import torch
from numba import carray
from torch import Tensor

from .._compile import callback, inlined
from .._jobs import DOUBLE, FIRST, LONG, Job, types_of
from .._memory import pointer, read, take, write
from .._vectors import BLOCK

OUTPUTS, GRADIENT, BIAS, BIAS_GRADIENT, OPTIONS, LABELS, CLASSES, COUNT, FIELDS = range(FIRST, FIRST + 9)


def cross_entropy(
    outputs: Tensor, gradient: Tensor, bias: Tensor, bias_gradient: Tensor, options: np.ndarray, count: int
) -> Job:
    """The job that writes the gradient of the mean cross-entropy (nats) of outputs + bias, and that of the bias.

    outputs, gradient: tiles of one position. options: float64 [2]: label smoothing, which is read, and the loss, which
    is written: NaN where a label is outside [0, classes). The address of the labels, int64 [count], is set before each
    run: `job.words[LABELS]`.
    """
    arrays = outputs, gradient, bias, bias_gradient, options, None
    numbers = outputs.shape[3], count
    return Job(_cross_entropy_body(outputs.dtype), 1, arrays, numbers)


@lru_cache
def _cross_entropy_body(dtype: torch.dtype):
    like, number, version = types_of(dtype, __file__)
    return callback(lambda job: _cross_entropy(job, like, number, version))


@inlined
def _cross_entropy(job_pointer, like, number, version):
    if take(job_pointer, 1) > 0:
        return
    job = carray(job_pointer, FIELDS)
    classes, count = job[CLASSES], job[COUNT]
    blocks = (count + BLOCK - 1) // BLOCK
    outputs = carray(pointer(job[OUTPUTS], like), (blocks, classes, BLOCK))
    gradient = carray(pointer(job[GRADIENT], like), (blocks, classes, BLOCK))
    bias, bias_gradient = (
        carray(pointer(job[BIAS], number), classes),
        carray(pointer(job[BIAS_GRADIENT], number), classes),
    )
    labels, options = carray(pointer(job[LABELS], LONG), count), carray(pointer(job[OPTIONS], DOUBLE), 2)
    shares, sums = np.empty(classes), np.zeros(classes)
    total, smoothing = 0.0, options[0]
    for n in range(count):
        if not 0 <= labels[n] < classes:
            options[1] = np.nan
            return
    for n in range(count):
        block, lane = n // BLOCK, n % BLOCK
        highest = -np.inf
        for c in range(classes):
            shares[c] = read(outputs, (block, c, lane)) + bias[c]
            highest = max(highest, shares[c])
        whole, mean = 0.0, 0.0
        for c in range(classes):
            mean += (shares[c] - highest) / classes
        expected = shares[labels[n]] - highest
        for c in range(classes):
            shares[c] = np.exp(shares[c] - highest)
            whole += shares[c]
        total += np.log(whole) - (1 - smoothing) * expected - smoothing * mean
        for c in range(classes):
            wanted = smoothing / classes + (1 - smoothing if c == labels[n] else 0.0)
            slope = (shares[c] / whole - wanted) / count
            sums[c] += slope
            write(gradient, (block, c, lane), number.dtype.type(slope))
    options[1] = total / count
    for c in range(classes):
        bias_gradient[c] = sums[c]
