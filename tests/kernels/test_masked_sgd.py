"""masked_sgd on the CPU against the float64 reference, and as a torch operator."""

import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_cases import Case, Options, assert_answers, kinds_of_mask, memory, options, shapes

from sparselt.kernels import masked_sgd_
from sparselt.kernels._compile import compiled
from sparselt.kernels._optimizer import cpu
from sparselt.kernels._order import is_dense
from sparselt.kernels.masked_sgd import pack_bits, pack_mask

quick = settings(max_examples=40, deadline=None, derandomize=True)


def run(case: Case, chosen: Options) -> torch.Tensor:
    """All steps; returns the momentum arena, which starts as NaN: a first step must not read it."""
    wide = torch.float64 if case.parameters[0].dtype == torch.float64 else torch.float32
    momentum = torch.full((case.length,), float("nan"), dtype=wide)
    mask, hyperparameters = pack_mask(case.live()), torch.tensor([chosen.row()], dtype=torch.float64)
    for i, gradients in enumerate(case.gradients):
        masked_sgd_(case.parameters, gradients, momentum, mask, hyperparameters, first_step=i == 0)
    return momentum


@quick
@given(shapes, memory, kinds_of_mask, options, st.sampled_from([torch.float32, torch.float64]), st.integers(0, 99))
def test_matches_the_float64_reference(shapes, order, mask, chosen, dtype, seed):
    case = Case(shapes, order, mask, dtype, seed=seed)
    momentum = run(case, chosen)
    assert_answers(case, chosen, momentum, "cpu")


@quick
@given(shapes, memory, kinds_of_mask, options, st.integers(0, 99))
def test_bfloat16_weights_keep_float32_momentum(shapes, order, mask, chosen, seed):
    case = Case(shapes, order, mask, torch.bfloat16, seed=seed, steps=1)
    momentum = run(case, chosen)
    for i, (weight, buffer) in enumerate(case.expected(chosen)):
        # One step, so the answer is known to half a unit in the last place: float32 arithmetic, then one rounding.
        torch.testing.assert_close(case.parameters[i].double(), weight, rtol=2**-8, atol=1e-6, equal_nan=True)
        if chosen.momentum != 0:
            torch.testing.assert_close(case.buffers(momentum)[i].double(), buffer, rtol=4e-6, atol=4e-6, equal_nan=True)


def test_bfloat16_rounds_to_nearest_even_as_torch_does():
    exact = torch.randn(4000)
    exact[:4] = torch.tensor([1 + 2**-8, 1 + 3 * 2**-8, float("inf"), float("nan")])
    weights = [torch.zeros(4000, dtype=torch.bfloat16)]
    gradient = [torch.ones(4000, dtype=torch.bfloat16)]
    for number in (*exact[:4].tolist(), 0.1, -0.3, 3.3e38):
        weights[0].zero_()
        row = Options(lr=-number, momentum=0).row()
        masked_sgd_(weights, gradient, torch.zeros(4096), torch.ones(4096, dtype=torch.uint8), torch.tensor([row]))
        expected = torch.tensor(row[0]).neg().bfloat16().expand(4000)
        torch.testing.assert_close(weights[0], expected, rtol=0, atol=0, equal_nan=True)


def test_two_runs_and_any_number_of_threads_give_the_same_bits(monkeypatch):
    chosen = Options(weight_decay=0.1, nesterov=True)
    threads = torch.get_num_threads()
    answers = []
    try:
        for count, parallel_from in ((1, 1 << 20), (1, 1 << 20), (2, 10), (3, 10)):
            torch.set_num_threads(count)
            monkeypatch.setattr(cpu, "PARALLEL_FROM", parallel_from)
            case = Case([(3001,), (7, 9), (64, 33)], special=False)
            answers.append(
                (run(case, chosen).view(torch.int32).clone(), [p.view(torch.int32) for p in case.parameters])
            )
    finally:
        torch.set_num_threads(threads)
    for momentum, parameters in answers[1:]:
        # Compared as bits: the padding of the arena is NaN.
        assert torch.equal(momentum, answers[0][0])
        assert all(torch.equal(p, q) for p, q in zip(parameters, answers[0][1], strict=True))


def test_a_forked_child_splits_over_its_own_threads():
    program = """
import os, numpy, torch
from sparselt.kernels import masked_sgd_
from sparselt.kernels._threads import split
torch.set_num_threads(3)
def covered():
    seen = bytearray(10)
    split(lambda start, stop: seen.__setitem__(slice(start, stop), b"x" * (stop - start)), (), 10, 1)
    # NumPy's work here: torch's own parallel loops hang in such a child.
    weights, ones = numpy.zeros(200_000, numpy.float32), numpy.ones(200_704, numpy.float32)
    row, mask = torch.tensor([[1.0, 0.0, 1.0, 0.0, 1.0, 1.0, 0.0]]), torch.from_numpy(ones.astype(numpy.uint8))
    gradient, momentum = torch.from_numpy(ones[:200_000]), torch.from_numpy(0 * ones)
    masked_sgd_([torch.from_numpy(weights)], [gradient], momentum, mask, row)
    return bytes(seen) == b"x" * 10 and bool((weights == -1).all())
assert covered()
child = os.fork()
if child == 0:
    os._exit(0 if covered() else 1)
assert os.waitpid(child, 0)[1] == 0
"""
    subprocess.run([sys.executable, "-W", "ignore", "-c", program], check=True, timeout=60)


def test_groups_take_their_own_row_of_hyperparameters():
    rows = torch.tensor([Options(lr=1.0, momentum=0).row(), Options(lr=2.0, momentum=0).row()])
    weights = [torch.zeros(3), torch.zeros(3)]
    mask = torch.ones(2048, dtype=torch.uint8)
    masked_sgd_(weights, [torch.ones(3)] * 2, torch.zeros(2048), mask, rows, groups=[1, 0])
    assert weights[0].tolist() == [-2.0] * 3 and weights[1].tolist() == [-1.0] * 3


def test_packed_bits_put_the_first_weight_lowest():
    live = torch.zeros(16, dtype=torch.bool)
    live[0] = live[9] = live[15] = True
    assert pack_bits(live).tolist() == [0b1, 0b10000010]


@pytest.mark.parametrize(
    ("tensor", "dense"),
    [
        (torch.zeros(2, 3).t(), True),
        (torch.zeros(2, 3, 4, 4).contiguous(memory_format=torch.channels_last), True),
        (torch.zeros(4, 4)[:, :2], False),
        (torch.zeros(1, 4).expand(3, 4), False),
        (torch.zeros(6)[::2], False),
        (torch.zeros(0, 3), True),
        (torch.zeros(()), True),
    ],
)
def test_dense_storage_is_told_from_gaps_and_overlaps(tensor, dense):
    assert is_dense(tensor) is dense


def arguments(**changes):
    given = {
        "parameters": [torch.ones(5), torch.ones(4, 3)],
        "gradients": [torch.ones(5), torch.ones(4, 3)],
        "momentum": torch.zeros(2048),
        "mask": torch.ones(2048, dtype=torch.uint8),
        "hyperparameters": torch.tensor([Options(weight_decay=0.1).row()]),
    }
    return {**given, **changes}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"gradients": [torch.ones(5)]}, "2 parameters, 1 gradients"),
        ({"gradients": [torch.ones(5), torch.ones(3, 4)]}, "gradient of parameter 1"),
        ({"gradients": [torch.ones(5), torch.ones(3, 4).t()]}, r"gradient of parameter 1 has strides \(1, 4\)"),
        ({"parameters": [torch.ones(5), torch.ones(4, 3).double()]}, "parameter 1 is torch.float64"),
        ({"parameters": [torch.ones(5).half()] * 2}, "parameter 0 is torch.float16"),
        ({"parameters": [torch.ones(5), torch.ones(4, 6)[:, ::2]]}, "parameter 1 has shape"),
        ({"offsets": [0, 100]}, "offset 100 of parameter 1"),
        ({"offsets": [0, 2048]}, "offset 2048 of parameter 1"),
        ({"groups": [0, 1]}, "parameter 1 is in group 1 of 1"),
        ({"mask": torch.ones(256, dtype=torch.uint8)}, "mask is"),
        ({"momentum": torch.zeros(2048).double()}, "momentum is"),
        ({"hyperparameters": torch.ones(1, 6)}, "hyperparameters is"),
    ],
)
def test_bad_arguments_are_named_and_nothing_is_written(changes, message):
    given = arguments(**changes)
    before = [p.clone() for p in given["parameters"]]
    with pytest.raises((ValueError, TypeError), match=message):
        masked_sgd_(**given)
    assert all(torch.equal(p, q) for p, q in zip(given["parameters"], before, strict=True))


@pytest.mark.parametrize("first_step", [True, False])
def test_operator_passes_torchs_own_checks(first_step):
    a = arguments()
    hyperparameters = a["hyperparameters"]
    torch.library.opcheck(
        torch.ops.sparselt.masked_sgd.default,
        (
            a["parameters"],
            a["gradients"],
            a["momentum"],
            a["mask"],
            hyperparameters,
            [0, 1024],
            [0, 0],
            first_step,
            True,
        ),
    )


def test_compiles_into_one_graph_and_computes_the_same():
    def two_steps(parameters, gradients, momentum, mask, hyperparameters):
        masked_sgd_(parameters, gradients, momentum, mask, hyperparameters, first_step=True)
        masked_sgd_(parameters, [2 * g for g in gradients], momentum, mask, hyperparameters)
        return parameters[0] + 1

    eager, traced = arguments(), arguments()
    expected = two_steps(**eager)
    got = torch.compile(two_steps, fullgraph=True, backend="aot_eager")(**traced)
    assert torch.equal(got, expected)
    assert torch.equal(traced["momentum"], eager["momentum"])
    assert all(torch.equal(p, q) for p, q in zip(traced["parameters"], eager["parameters"], strict=True))


def test_autograd_notices_that_weights_changed_between_forward_and_backward():
    weight = torch.ones(3, requires_grad=True)
    loss = (weight**2).sum()
    masked_sgd_(
        [weight],
        [torch.ones(3)],
        torch.zeros(1024),
        torch.ones(1024, dtype=torch.uint8),
        torch.tensor([Options().row()]),
    )
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_compiles_where_no_cache_can_be_written():
    names = {}
    exec("def twice(x):\n    return 2 * x", names)  # no file, so Numba finds no folder for a cache
    assert compiled(names["twice"])(21) == 42


def test_importing_the_kernels_imports_no_triton():
    program = "import sys, sparselt.kernels; assert 'triton' not in sys.modules and 'ffcv' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


def test_one_row_of_hyperparameters_without_its_group_is_refused():
    weight, momentum = torch.zeros(8), torch.zeros(1024)
    with pytest.raises(ValueError, match=r"hyperparameters is of shape \(7,\): expected \[groups, 7\]"):
        masked_sgd_([weight], [weight.clone()], momentum, pack_mask(torch.ones(1024, dtype=torch.bool)), torch.zeros(7))
