"""A masked optimizer with bfloat16 copies of some weights against the same optimizer on float32 gradients."""

import torch
from adaptive_cases import RULES, given
from kernel_cases import Case

from sparselt.kernels._optimizer import Launch
from sparselt.kernels._optimizer.layout import Layout, block_table, pack_bits, pack_mask
from sparselt.kernels._tensors import addresses_of
from sparselt.kernels.masked_sgd import Columns, operation

SHAPES = [(16, 5, 3, 3), (40, 40), (), (1025,), (0,), (2048,)]
COPIED = [True, False, True, True, True, False]
RULES_WITH_COPIES = {name: (rule.operation, rule.row) for name, rule in RULES.items()}
RULES_WITH_COPIES["sgd"] = operation, Columns(0.1, 0.9, 1.0, 0.1, 1.0, 1.0, 0.0)
RULES_WITH_COPIES["sgd without momentum"] = operation, Columns(0.1, 0.0, 1.0, 0.1, 1.0, 1.0, 0.0)


def on_device(case: Case, device: str) -> Case:
    case.parameters = [torch.empty_like(p, device=device).copy_(p) for p in case.parameters]
    case.gradients = [[torch.empty_like(g, device=device).copy_(g) for g in step] for step in case.gradients]
    return case


def run(case: Case, name: str, copies: bool, live_state: bool, interpreted=None):
    """All steps, of which the second gives the first parameter no gradient. Returns the state and the copies' arena."""
    operation, row = RULES_WITH_COPIES[name]
    device = case.parameters[0].device
    on_gpu = bool(interpreted) or device.type == "cuda"
    live = case.live().to(device)
    blocks, places = block_table(live)
    shape = operation.buffers, places if live_state else case.length
    state = torch.full(shape, float("nan"), device=device)
    steps = torch.zeros(len(blocks), dtype=torch.int32, device=device)
    rows = torch.tensor([row], dtype=torch.float32 if on_gpu else torch.float64, device=device)
    shadow = torch.zeros(case.length, dtype=torch.bfloat16, device=device) if copies else None
    copied = COPIED if copies else None
    for gradients in given(case):
        rounded = [g if g is None else g.bfloat16() for g in gradients]
        kinds = zip(rounded, COPIED, strict=True)
        sent = [g if g is None or (copies and copied) else g.float() for g, copied in kinds]
        launch = Launch(
            layout=Layout([p.numel() for p in case.parameters], case.offsets, [0] * len(case.parameters), copied),
            dtype=torch.float32,
            addresses=addresses_of(case.parameters, sent),
            state=state,
            mask=pack_bits(live) if interpreted else pack_mask(live),
            hyperparameters=rows,
            blocks=blocks,
            live_state=live_state,
            steps=steps,
            shadow=shadow,
            rewrite=not on_gpu,
        )
        interpreted(operation, launch) if interpreted else operation.launch(launch)
    return state, shadow


def check(mask: str, name: str, live_state: bool, interpreted=None, device: str = "cpu") -> None:
    """Weights and state are those of float32 gradients, to the bit; each copy is its weight, rounded."""
    cases = [on_device(Case(SHAPES, "channels last", mask), device) for _ in range(2)]
    if interpreted or device == "cuda":  # a GPU does not write memory where no weight lives
        for case in cases:
            for p, live in zip(case.parameters, case.masks, strict=True):
                p.masked_fill_(~live.to(device), 0)
    (state, shadow), (expected, _) = (
        run(case, name, copies, live_state, interpreted) for case, copies in zip(cases, (True, False), strict=True)
    )
    assert torch.equal(state.view(torch.int32), expected.view(torch.int32))
    for p, q in zip(*(case.parameters for case in cases), strict=True):
        assert torch.equal(p.view(torch.int32), q.view(torch.int32))
    for p, copy, live, copied in zip(
        cases[0].parameters, cases[0].buffers(shadow), cases[0].masks, COPIED, strict=True
    ):
        # Triton's interpreter cuts bits off; test_kernel_compilation.py says that a GPU rounds.
        tolerance = 2**-7 if interpreted else 0
        expected = p.bfloat16() if copied else torch.zeros_like(copy)
        torch.testing.assert_close(copy, expected, rtol=tolerance, atol=0, equal_nan=True)
        assert not copy[~live.to(device)].view(torch.int16).any()
