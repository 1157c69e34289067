"""norm_act on the CPU: against the reference in float64, as an operator, on several threads, and what it refuses."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from norm_cases import TOLERANCE, Case, assert_close
from torch import nn
from torch.nn import functional as F

from sparselt.kernels.norm_act import cpu, norm_act, unsupported_reason

pytestmark = pytest.mark.usefixtures("poisoned_outputs")


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    st.tuples(st.integers(1, 9), st.sampled_from([1, 3, 8, 16, 20, 64, 96, 130]), st.integers(1, 9), st.integers(1, 9)),
    st.sampled_from(list(TOLERANCE)),
    st.booleans(),
    st.booleans(),
    st.sampled_from([0.0, 3.0]),
)
def test_agrees_with_the_reference(shape, dtype, residual, relu, mean):
    if shape[0] * shape[2] * shape[3] < 6:  # the gradient of a channel of two numbers is what rounding leaves of 0
        shape = (6, *shape[1:])
    case = Case(shape, dtype, residual=residual, relu=relu, mean=mean)
    case.check(cpu.norm_act, cpu.norm_act_backward, TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", list(TOLERANCE), ids=str)
def test_many_units_agree_too_and_threads_do_not_matter(dtype, monkeypatch):
    case = Case((130, 48, 9, 8), dtype, residual=True)
    case.check(cpu.norm_act, cpu.norm_act_backward, TOLERANCE[dtype])
    monkeypatch.setattr(cpu, "PARALLEL_FROM", 1)
    answers = []
    for threads in (1, 3):
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            x = case.input.clone().requires_grad_()
            mean, var = case.running_mean.clone(), case.running_var.clone()
            out = norm_act(x, case.weight, case.bias, mean, var, residual=case.residual)
            out.backward(case.gradient)
            answers.append([out.detach(), x.grad, mean, var])
        finally:
            torch.set_num_threads(before)
    assert all(torch.equal(one, other) for one, other in zip(*answers, strict=True))


def test_a_mean_that_is_large_beside_the_deviation_costs_no_digits():
    x = (torch.randn(64, 16, 8, 8, dtype=torch.float64) + 1000).contiguous(memory_format=torch.channels_last)
    ones, zeros = torch.ones(16), torch.zeros(16)
    ours = norm_act(x.float(), ones, zeros, relu=False).double()
    exact = F.batch_norm(x.float().double(), None, None, training=True)
    assert (ours - exact).abs().max() < 2e-3  # 1000 has steps of 6e-5 in float32; the term is rounded to such a step
    spread = ours.var((0, 2, 3), unbiased=False)
    assert (spread - 1).abs().max() < 1e-4


def test_is_batch_norm_addition_and_relu_and_differentiable():
    case = Case((5, 6, 4, 3), torch.float64, residual=True)
    leaves = [t.detach().clone().requires_grad_() for t in (case.input, case.weight, case.bias, case.residual)]

    def outputs(x, weight, bias, residual):
        return norm_act(x, weight, bias, residual=residual)

    assert torch.autograd.gradcheck(outputs, leaves)
    norm = nn.BatchNorm2d(6, momentum=0.3).double()
    mean, var = norm.running_mean.clone(), norm.running_var.clone()
    expected = F.relu(norm(case.input) + case.residual)
    got = norm_act(case.input, norm.weight, norm.bias, mean, var, residual=case.residual, momentum=0.3)
    found = {"out": got, "mean": mean, "var": var}
    assert_close(found, {"out": expected, "mean": norm.running_mean, "var": norm.running_var}, 1e-12)
    (gradient,) = torch.autograd.grad(got.square().sum(), norm.weight, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()
    with pytest.raises(NotImplementedError, match="norm_act has no forward-mode derivative"):
        torch.func.jvp(lambda x: norm_act(x, norm.weight, norm.bias), (case.input,), (case.gradient,))
    compiled = torch.compile(lambda x: torch.func.jvp(lambda x: norm_act(x, norm.weight, norm.bias), (x,), (x,))[1])
    with pytest.raises(NotImplementedError, match="norm_act has no forward-mode derivative"):
        compiled(case.input)


def test_what_is_not_a_number_stays_none():
    x = torch.randn(4, 3, 5, 5).contiguous(memory_format=torch.channels_last)
    x[1, 2, 3, 3] = float("nan")
    out = norm_act(x, torch.ones(3), torch.zeros(3))
    assert out[:, 2].isnan().all() and not out[:, :2].isnan().any()


def test_is_an_operator_that_compiles():
    case = Case((4, 8, 5, 5), torch.float32, residual=True)
    arguments = case.input, case.weight, case.bias, case.residual, case.running_mean, case.running_var, 0.1, 1e-5, True
    tests = ("test_schema", "test_faketensor")
    torch.library.opcheck(torch.ops.sparselt.norm_act.default, arguments, test_utils=tests)
    out, mean, inverse = torch.ops.sparselt.norm_act(*arguments)
    backward = case.gradient, case.input, case.weight, case.bias, mean, inverse, out, True
    torch.library.opcheck(torch.ops.sparselt.norm_act_backward.default, backward, test_utils=tests)

    def step(x, weight, running_mean, running_var):
        return norm_act(x * 2, weight, case.bias, running_mean, running_var).sum()

    results = []
    for function in (step, torch.compile(step, fullgraph=True, backend="aot_eager")):
        leaves = [case.input.clone().requires_grad_(), case.weight.clone().requires_grad_()]
        statistics = [case.running_mean.clone(), case.running_var.clone()]
        function(*leaves, *statistics).backward()
        results.append([*(leaf.grad for leaf in leaves), *statistics])
    assert all(torch.equal(one, other) for one, other in zip(*results, strict=True))


X = torch.randn(4, 3, 5, 5).contiguous(memory_format=torch.channels_last)
ONES = torch.ones(3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"input": X.contiguous()}, r"input has strides \(75, 25, 5, 1\); expected channels last"),
        ({"input": X.half()}, "input is torch.float16, weight torch.float32; expected float32 or bfloat16"),
        ({"weight": ONES.bfloat16()}, "weight torch.bfloat16; expected"),
        ({"input": X[0]}, r"expected \[N, channels, H, W\] and \[channels\]"),
        ({"weight": torch.ones(4)}, r"weight \(4,\); expected"),
        ({"residual": X.bfloat16()}, r"residual is torch.bfloat16 .* expected torch.float32 \(4, 3, 5, 5\)"),
        ({"residual": X[:2]}, r"residual is torch.float32 \(2, 3, 5, 5\)"),
        ({"residual": X.contiguous()}, "channels last"),
        ({"bias": torch.ones(4)}, r"bias is torch.float32 \(4,\) .* expected torch.float32 \(3,\), contig"),
        (
            {"weight": torch.ones(6)[::2]},
            r"weight is .* with strides \(2,\): expected torch.float32 \(3,\), contiguous",
        ),
        ({"running_mean": torch.ones(6)[::2], "running_var": ONES}, r"running_mean is .* with strides \(2,\)"),
        ({"running_mean": ONES}, "one of running_mean and running_var is None: expected both or none"),
        ({"input": X[:1, :, :1, :1]}, "expected more than one number a channel"),
        ({"input": X[:0]}, "expected more than one number a channel"),
        ({"momentum": None}, "momentum is None: expected a number"),
    ],
)
def test_what_does_not_fit_is_refused(changes, message):
    given = {"input": X, "weight": ONES, "bias": ONES} | changes
    with pytest.raises((TypeError, ValueError), match=message):
        norm_act(**given)
    assert not unsupported_reason(X, ONES)
