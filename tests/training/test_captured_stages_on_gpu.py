"""Stages, estimates and compiled networks of the captured step on a CUDA device. `make gpu` runs these."""

import dataclasses

import pytest
import torch
from cohort_cases import RECIPE, Cases, assert_same, read_pixels

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]


def test_an_estimate_times_the_captured_step_and_leaves_no_memory_behind(bench):
    from sparselt.stages import side_by_side

    stage = dataclasses.replace(bench.lab().dense(0), device="cuda")
    seconds, size = side_by_side.seconds_of_a_step(stage, 8, 4, 4)
    assert size == 4 and seconds > 0 and not side_by_side._kept


def test_stages_on_a_gpu_are_trained_side_by_side_with_the_bytes_they_have_alone(bench, tmp_path):
    pytest.importorskip("sklearn")
    from sparselt.experiments.lab import Lab
    from sparselt.runs.executor import execute
    from sparselt.runs.plan import Plan
    from sparselt.runs.store import Store
    from sparselt.runs.workers import Workers

    class Quiet:
        def progressed(self, stage, steps): ...
        def finished(self, stage, entry): ...
        def idle(self): ...

        def tried(self, *_): ...

    lab = Lab(bench.setting(replicates=4), "cuda")
    plan = Plan(lab.ticket(replicate, rewind, 1) for replicate in range(4) for rewind in (0, 2))
    stores = {cohort: Store(tmp_path / str(cohort)) for cohort in (None, 1, 4)}
    for cohort, store in stores.items():
        with Workers(1, cohort) as workers:
            assert {entry.status for entry in execute(plan, store, workers, Quiet())} == {"ran"}
    for stage in plan.trainings():
        files = [(store.folder(stage) / "final.safetensors").read_bytes() for store in stores.values()]
        assert files[0] == files[1] == files[2], stage.label


def test_compiled_networks_train_alike_alone_together_and_up_to_rounding_as_plain_ones(tmp_path):
    cases = Cases(read_pixels(tmp_path), "cuda")
    members = [cases.member(seed, dataclasses.replace(RECIPE, compile=True)) for seed in range(2)]
    for member, (state, result, _) in zip(members, cases.together(members), strict=True):
        ((its_state, its_result, _),) = cases.together([member])
        assert_same(state, its_state)
        assert result == its_result
        ((_, plain, _),) = cases.together([dataclasses.replace(member, recipe=RECIPE)])
        assert result.train_loss == pytest.approx(plain.train_loss, rel=0.1)
