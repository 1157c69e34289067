"""The clocks of the benchmarks on a CUDA device. `make gpu` runs these."""

import pytest
import torch

from sparselt.benchmarks.clocks import CLOCKS, captured, seconds_of

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]


@pytest.mark.parametrize("clock", CLOCKS)
def test_every_clock_sees_the_work_on_the_device(clock):
    data = torch.zeros(2**26, device="cuda")

    def call() -> None:
        data.add_(1)

    ready = captured(call) if clock == "graph" else call
    seconds = [seconds_of(ready, clock, "cuda") for _ in range(5)]
    assert all(2 * data.nbytes / 20e12 < each < 1 for each in seconds)  # no device moves 20 TB/s


def test_a_replay_does_the_work_again_with_what_is_there_now():
    source, target = torch.ones(1000, device="cuda"), torch.zeros(1000, device="cuda")
    replay = captured(lambda: target.add_(source))
    target.zero_()
    source.fill_(3)
    replay()
    replay()
    torch.cuda.synchronize()
    assert torch.equal(target, torch.full_like(target, 6))
