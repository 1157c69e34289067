"""masked_sgd's options on the CPU: live momentum, blocks, first steps, loss scaling; and what is beyond 32 bits."""

import ctypes

import pytest
import torch
from far_memory import far_tensor
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_cases import Case, Options, assert_answers, kinds_of_mask, memory, options, shapes

from sparselt.kernels import _tensors, _threads, masked_sgd_
from sparselt.kernels._optimizer import Launch
from sparselt.kernels._optimizer.layout import Layout
from sparselt.kernels._tensors import Siblings, addresses_of
from sparselt.kernels.masked_sgd import block_table, operation, pack_bits, pack_mask, reference, unpack_mask

quick = settings(max_examples=30, deadline=None, derandomize=True)
dtypes = st.sampled_from([torch.float32, torch.float64, torch.bfloat16])


def wide(case: Case) -> torch.dtype:
    return torch.float64 if case.parameters[0].dtype == torch.float64 else torch.float32


def bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.view({2: torch.int16, 4: torch.int32, 8: torch.int64}[tensor.element_size()])


@quick
@given(shapes, memory, kinds_of_mask, options, dtypes, st.integers(0, 99))
def test_live_momentum_gives_the_bits_of_dense_momentum(shapes, order, mask, chosen, dtype, seed):
    cases = [Case(shapes, order, mask, dtype, seed=seed) for _ in range(2)]
    blocks, places = block_table(cases[0].live())
    rows, packed = torch.tensor([chosen.row()], dtype=torch.float64), pack_mask(cases[0].live())
    dense = torch.full((cases[0].length,), float("nan"), dtype=wide(cases[0]))
    live = torch.full((places,), float("nan"), dtype=wide(cases[0]))
    steps = torch.zeros(len(blocks), dtype=torch.int32)
    for i in range(len(cases[0].gradients)):
        masked_sgd_(cases[0].parameters, cases[0].gradients[i], dense, packed, rows, first_step=i == 0)
        given = {"blocks": blocks, "live_state": True, "steps": steps}
        masked_sgd_(cases[1].parameters, cases[1].gradients[i], live, packed, rows, **given)
    for p, q in zip(cases[0].parameters, cases[1].parameters, strict=True):
        assert torch.equal(bits(p), bits(q))
    expanded, alive = cases[1].expanded(live), cases[1].live()
    assert torch.equal(bits(expanded)[alive], bits(dense)[alive])
    if dtype != torch.bfloat16:
        # Whatever is not the place of a live weight is as it was: NaN, where momentum was begun at all.
        assert live.isnan().sum() >= places - alive.sum()
        assert_answers(cases[0], chosen, dense, "cpu")


@quick
@given(shapes, memory, kinds_of_mask, options, st.integers(0, 99))
def test_counted_blocks_change_no_bit(shapes, order, mask, chosen, seed):
    cases = [Case(shapes, order, mask, seed=seed) for _ in range(2)]
    rows, packed = torch.tensor([chosen.row()], dtype=torch.float64), pack_mask(cases[0].live())
    momenta = [torch.full((case.length,), float("nan")) for case in cases]
    for i in range(len(cases[0].gradients)):
        for case, momentum, blocks in zip(cases, momenta, (None, block_table(cases[0].live())[0]), strict=True):
            masked_sgd_(case.parameters, case.gradients[i], momentum, packed, rows, first_step=i == 0, blocks=blocks)
    assert torch.equal(bits(momenta[0]), bits(momenta[1]))
    for p, q in zip(cases[0].parameters, cases[1].parameters, strict=True):
        assert torch.equal(bits(p), bits(q))


def test_blocks_without_a_live_weight_are_left_alone_unless_told_to_rewrite_them():
    for rewrite in (False, True):
        case = Case([(3000,)], mask="empty", special=False)
        case.masks[0][1024:1030] = True
        case.parameters[0].fill_(7.0)
        rows, blocks = torch.tensor([Options().row()]), block_table(case.live())[0]
        packed, momentum = pack_mask(case.live()), torch.zeros(3072)
        masked_sgd_(case.parameters, case.gradients[0], momentum, packed, rows, rewrite=rewrite, blocks=blocks)
        weights = case.parameters[0]
        assert (weights[:1024] == (0.0 if rewrite else 7.0)).all() and (weights[2048:] == weights[0]).all()
        assert (weights[1024:1030] != 7.0).all() and not weights[1030:2048].any()


def test_scaled_gradients_are_divided_and_a_step_with_an_infinity_changes_nothing():
    chosen, (one, other) = Options(weight_decay=0.1), (Case([(3001,), (5, 7)], special=False) for _ in range(2))
    rows, packed = torch.tensor([chosen.row()]), pack_mask(one.live())
    steps = torch.zeros(one.length // 1024, dtype=torch.int32)
    momenta = [torch.full((one.length,), float("nan")) for _ in range(2)]
    masked_sgd_(one.parameters, one.gradients[0], momenta[0], packed, rows, first_step=True)
    given = {"steps": steps, "grad_scale": torch.tensor(64.0)}
    gradients = [g * 64 for g in other.gradients[0]]
    masked_sgd_(other.parameters, gradients, momenta[1], packed, rows, found_inf=torch.tensor(1.0), **given)
    assert momenta[1].isnan().all() and not steps.any()
    assert all(torch.equal(p, q) for p, q in zip(other.parameters, other.start, strict=True))
    masked_sgd_(other.parameters, gradients, momenta[1], packed, rows, found_inf=torch.tensor([0.0]), **given)
    assert steps.all()
    assert all(torch.equal(p, q) for p, q in zip(one.parameters, other.parameters, strict=True))
    assert torch.equal(bits(momenta[0]), bits(momenta[1]))


@quick
@given(shapes, kinds_of_mask, options, st.sampled_from([1.0, 3.0, 65536.0]), st.booleans(), st.lists(st.booleans()))
def test_scaled_and_skipped_steps_match_the_reference(shapes, mask, chosen, scale, live_momentum, skipped):
    case = Case(shapes, mask=mask, dtype=torch.float64, special=False)
    blocks, places = block_table(case.live())
    momentum = torch.full((places if live_momentum else case.length,), float("nan"), dtype=torch.float64)
    rows, packed = torch.tensor([chosen.row()], dtype=torch.float64), pack_mask(case.live())
    steps = torch.zeros(len(blocks), dtype=torch.int32)
    answers = [(p.clone(), None) for p in case.start]
    for gradients, infinite in zip(case.gradients, [*skipped, False, False, False], strict=False):
        given = {"blocks": blocks, "live_state": live_momentum, "steps": steps}
        scaler = {"grad_scale": torch.tensor(scale), "found_inf": torch.tensor(float(infinite))}
        masked_sgd_(case.parameters, gradients, momentum, packed, rows, **given, **scaler)
        answers = [
            reference.masked_sgd(w, g, b, live, chosen.row(), grad_scale=scale, found_inf=infinite)
            for (w, b), g, live in zip(answers, gradients, case.masks, strict=True)
        ]
    buffers = case.buffers(case.expanded(momentum) if live_momentum else momentum)
    for p, buffer, (weight, expected) in zip(case.parameters, buffers, answers, strict=True):
        torch.testing.assert_close(p, weight, rtol=1e-12, atol=1e-12)
        if expected is not None:
            torch.testing.assert_close(buffer, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("live_momentum", [False, True])
@pytest.mark.parametrize("offset", [2**31 + 1024, 2**32 + 2048])
def test_arenas_longer_than_32_bits_count(offset, live_momentum):
    length, place = offset + 2048, offset + 16 if live_momentum else offset
    momentum = far_tensor(length + 16 if live_momentum else length, torch.float32)
    mask = far_tensor(length, torch.uint8)
    blocks, steps = far_tensor(length // 1024 * 2, torch.int64).view(-1, 2), far_tensor(length // 1024, torch.int32)
    mask[offset : offset + 1500 : 2] = 1
    blocks[offset // 1024 :, 0], blocks[offset // 1024 :, 1] = torch.tensor([512, 238]), torch.tensor([0, 512]) + place
    weights, gradients, rows = [torch.zeros(1500)], [torch.ones(1500)], torch.tensor([Options(lr=1.0).row()])
    given = {"offsets": [offset], "blocks": blocks, "live_state": live_momentum, "steps": steps}
    masked_sgd_(weights, gradients, momentum, mask, rows, **given)
    assert (weights[0][::2] == -1).all() and not weights[0][1::2].any()
    assert momentum[place - 8 : place + 1500].sum() == 750 and steps[offset // 1024 :].tolist() == [1, 1]


def test_a_parameter_of_more_weights_than_32_bits_count():
    weights, gradients = far_tensor(dtype=torch.bfloat16), far_tensor(dtype=torch.bfloat16)
    size = len(weights)
    length = -(-size // 1024) * 1024
    blocks = far_tensor(length // 1024 * 2, torch.int64).view(-1, 2)  # no block lives but the last, so none is touched
    blocks[-1, 0] = size - length + 1024
    mask, momentum = far_tensor(length, torch.uint8), far_tensor(length, torch.float32)
    mask[length - 1024 :], gradients[-3:] = 1, 2.0
    rows = torch.tensor([Options(lr=1.0).row()])
    masked_sgd_([weights], [gradients], momentum, mask, rows, rewrite=False, blocks=blocks)
    assert weights[-4:].tolist() == [0, -2, -2, -2]


def arguments(**changes):
    live = torch.ones(2048, dtype=torch.bool)
    live[::3] = live[5:1024] = live[1036:] = False
    blocks, places = block_table(live)
    given = {
        "parameters": [torch.ones(5), torch.ones(4, 3)],
        "gradients": [torch.ones(5), torch.ones(4, 3)],
        "momentum": torch.zeros(places),
        "mask": pack_mask(live),
        "hyperparameters": torch.tensor([Options(weight_decay=0.1).row()]),
        "blocks": blocks,
        "live_state": True,
        "steps": torch.zeros(2, dtype=torch.int32),
        "grad_scale": torch.tensor(2.0),
        "found_inf": torch.tensor(0.0),
    }
    return {**given, **changes}


SHARED = torch.ones(20)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"blocks": None}, "live_state needs blocks"),
        ({"blocks": torch.zeros(2, 2)}, r"blocks is torch.float32 \(2, 2\)"),
        ({"momentum": torch.zeros(8)}, "momentum has 8 places"),
        ({"steps": torch.zeros(3, dtype=torch.int32)}, r"steps is torch.int32 \(3,\)"),
        ({"grad_scale": torch.ones(2)}, r"grad_scale is torch.float32 \(2,\)"),
        ({"found_inf": torch.zeros((), dtype=torch.int64)}, "found_inf is torch.int64"),
        ({"parameters": [SHARED[:5], SHARED[3:15].view(4, 3)]}, "parameter 0 and parameter 1 share memory"),
    ],
)
def test_bad_options_are_named_and_nothing_is_written(changes, message):
    given = arguments(**changes)
    before = [p.clone() for p in given["parameters"]]
    with pytest.raises(ValueError, match=message):
        masked_sgd_(**given)
    assert all(torch.equal(p, q) for p, q in zip(given["parameters"], before, strict=True))
    assert given["steps"].sum() == 0


def test_the_whole_operator_passes_torchs_own_checks():
    a = arguments()
    required = [a.pop(name) for name in ("parameters", "gradients", "momentum", "mask", "hyperparameters")]
    torch.library.opcheck(torch.ops.sparselt.masked_sgd.default, (*required, [0, 1024], [0, 0], False, True), kwargs=a)


def test_the_whole_operator_compiles_into_one_graph():
    def two_steps(**given):
        masked_sgd_(**given)
        masked_sgd_(**given)
        return given["parameters"][0] + 1

    eager, traced = arguments(), arguments()
    expected = two_steps(**eager)
    got = torch.compile(two_steps, fullgraph=True, backend="aot_eager")(**traced)
    assert torch.equal(got, expected) and torch.equal(traced["momentum"], eager["momentum"])
    assert traced["steps"].tolist() == [2, 2]
    assert all(torch.equal(p, q) for p, q in zip(traced["parameters"], eager["parameters"], strict=True))


def test_a_parameter_without_a_gradient_is_left_alone():
    weights, gradients = [torch.ones(1500), torch.ones(7), torch.ones(3)], [None, torch.ones(7), None]
    layout = Layout([1500, 7, 3], [0, 2048, 3072], [0, 0, 0])
    mask, rows, momentum = torch.ones(4096).byte(), torch.tensor([Options(lr=1.0).row()]), torch.zeros(4096)
    operation.launch(
        Launch(
            layout=layout,
            dtype=torch.float32,
            addresses=addresses_of(weights, gradients),
            state=momentum.view(1, -1),
            mask=mask,
            hyperparameters=rows,
        )
    )
    assert [w.unique().tolist() for w in weights] == [[1.0], [0.0], [1.0]]
    assert momentum.sum() == 7


@pytest.mark.parametrize("openmp", [True, False])
@pytest.mark.parametrize("live_momentum", [True, False])
def test_any_threads_give_the_same_bits(openmp, live_momentum, monkeypatch):
    if not openmp:
        monkeypatch.setattr(_threads, "_openmp", lambda: None)
    threads, answers = torch.get_num_threads(), []
    try:
        for count in (1, 3):
            torch.set_num_threads(count)
            case = Case([(100_001,), (7, 9), (300, 200)], special=False)
            blocks, places = block_table(case.live())
            momentum, rows = torch.zeros(places if live_momentum else case.length), torch.tensor([Options().row()])
            for gradients in case.gradients:
                masked_sgd_(
                    case.parameters,
                    gradients,
                    momentum,
                    pack_mask(case.live()),
                    rows,
                    blocks=blocks,
                    live_state=live_momentum,
                )
            answers.append([momentum, *case.parameters])
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(p, q) for p, q in zip(*answers, strict=True))


@pytest.mark.parametrize("exchange", [True, False], ids=["DLPack", "Python"])
def test_tensors_unlike_their_siblings_are_noticed(exchange, monkeypatch):
    if not exchange:
        monkeypatch.setattr(_tensors, "_exchange", lambda: None)
    tensors = [torch.zeros(4, 1, 3), torch.zeros(()), torch.zeros(0, 2), torch.zeros(2, 3, 4, 4)]
    siblings = Siblings(tensors)
    others = [torch.ones_like(t) for t in tensors]
    assert siblings.addresses(others).tolist() == addresses_of(tensors, others).tolist()
    assert not siblings.some_missing
    others[0] = others[0].as_strided((4, 1, 3), (3, 77, 1))  # the stride of a dimension of size 1 means nothing
    assert siblings.addresses([*others[:3], None]).tolist() == addresses_of(tensors, [*others[:3], None]).tolist()
    assert siblings.some_missing
    last = others[3]
    for unlike in (
        last.double(),
        last.to(memory_format=torch.channels_last),
        last[:1],
        last.flatten(),
        last.to("meta"),
        last.to_sparse(),
    ):
        assert siblings.addresses([*others[:3], unlike]) is None
    tensors[3].data = torch.zeros(3, 2, 4, 4)
    assert siblings.addresses(others) is None


def test_torch_offers_the_exchange_and_its_openmp_threads():
    # Without them everything works, slower: this says whether the fast way is taken where it was measured.
    assert _tensors._address_of_exchange()
    assert isinstance(_threads._openmp(), ctypes._CFuncPtr)


@given(st.integers(0, 2**32))
@settings(max_examples=10, derandomize=True, deadline=None)
def test_masks_are_unpacked_as_they_were_packed(seed):
    live = torch.rand(2048, generator=torch.Generator().manual_seed(seed)) < 0.5
    assert torch.equal(unpack_mask(pack_mask(live)), live)
    packed = pack_bits(live)
    assert torch.equal((packed[:, None] >> torch.arange(8, dtype=torch.uint8) & 1).view(-1) != 0, live)
