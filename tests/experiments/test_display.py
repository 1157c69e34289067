"""The progress of a run in words."""

import pytest
from rich.console import Console

from sparselt.experiments import EXPERIMENTS, Lab
from sparselt.experiments.display import ProgressDisplay
from sparselt.reproduce.digits_resnet8 import MINI
from sparselt.runs.estimate import Speed
from sparselt.runs.ledger import Entry
from sparselt.runs.plan import Plan
from sparselt.stages.train import Train


@pytest.mark.parametrize(("training", "said"), [(False, "1 of 2 stages done in"), (True, "1 of 2 trainings done in")])
def test_stages_are_counted_where_there_is_nothing_to_train(training, said):
    plan = Plan(stage for m in EXPERIMENTS["imp"](Lab(MINI.checked())) for stage in m.stages)
    missing = [stage for stage in plan.stages if isinstance(stage, Train) == training][:2]
    console = Console(record=True, width=200)
    display = ProgressDisplay(console, plan, missing, Speed({}, ""), 1)
    display.finished(missing[0], Entry(missing[0].key, missing[0].kind, "", "ran", 1, 1.0, ""))
    display.finished(missing[1], Entry(missing[1].key, missing[1].kind, "", "failed", 0, 1.0, ""))
    display.close()
    assert said in console.export_text()
