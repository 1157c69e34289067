"""The keys of all stages of all settings, as version 0.1.0 made them (d0a51c7): what it stored is found again.

Changed on purpose since, see CHANGELOG: scale paper of the papers' settings, the reinitialization under a repelling
loss, and the micro-batches of ResNet-50 on ImageNet at scales paper and mini. The digits train on live weights alone
(`sparse_up_to`), as 0.1.0 could not; with sparse_up_to=0 they have the keys that they had. ResNet-50 trains on smaller
images at scale smoke, in fewer steps; with those of 0.1.0 it has the keys that it had.
"""

import hashlib
import json
from collections import defaultdict
from pathlib import Path

import pytest

from sparselt.experiments import EXPERIMENTS, Lab
from sparselt.experiments.planning import chosen
from sparselt.experiments.rounds import measured, plan_of
from sparselt.reproduce import load_setting

OF_0_1_0 = (*("imp", "connectivity", "landscape", "adaptive", "flatness", "stability", "rewind_to_init", "siblings"),)
LARGER_SMOKE = {
    **{"train_size": 64, "eval_size": 64, "steps": 16, "warmup_steps": 6, "path_points": 5},
    **{"rewind_steps": (0, 6), "control_rewind_step": 6, "adaptive_rewind_step": 6},
    "flatness_products": 3,
}
FROZEN = json.loads((Path(__file__).parent / "keys.json").read_text())


@pytest.mark.parametrize("plan", FROZEN)
def test_every_stage_of_the_first_round_has_the_key_that_it_had(plan):
    """A changed key orphans stored results: raise a stage's version instead, and on purpose."""
    name, scale, *main = plan.split()
    setting = load_setting(name, scale).changed(sparse_up_to=0.0)
    if scale == "smoke" and name in ("imagenet_resnet50", "imagenet_resnet50_mild"):
        setting = setting.changed(**LARGER_SMOKE)
    if main:
        setting = setting.changed(**setting.main_values)
    setting = setting.checked()
    experiments, _ = chosen(main, {name: EXPERIMENTS[name] for name in OF_0_1_0}, setting)
    keys = defaultdict(list)
    for stage in plan_of(measured(experiments, Lab(setting))).stages:
        keys[stage.kind].append(stage.key)
    found = {
        kind: {"stages": len(of_kind), "sha256": hashlib.sha256("\n".join(sorted(of_kind)).encode()).hexdigest()}
        for kind, of_kind in sorted(keys.items())
    }
    assert found == FROZEN[plan]
