"""Choices of a setting that the authors' code made in another way: pruning rule, precision of errors, data order."""

import math

import pytest
import torch
from stage_cases import task

from sparselt.errors import SettingError
from sparselt.experiments import EXPERIMENTS
from sparselt.experiments.rounds import measured, plan_of
from sparselt.masks import Mask
from sparselt.models import build_model
from sparselt.training.loop import evaluate
from sparselt.training.recipe import derive_seed


def test_open_lths_rule_keeps_what_is_strictly_above_the_weight_of_its_rank(bench):
    lab = bench.lab(rule="open_lth")
    mask = Mask.load(bench.path(_made(bench, lab.mask(0, 6, 1))))
    weights = bench.load(lab.dense(0).final)
    magnitudes = torch.cat([weights[name].flatten() for name in mask]).abs()
    threshold = magnitudes.sort().values[math.ceil(0.2 * mask.size)]
    assert mask.live == int((magnitudes > threshold).sum())
    assert all(torch.equal(layer, weights[name].abs() > threshold) for name, layer in mask.items())


def test_what_a_criterion_draws_differs_between_replicates(bench):
    lab = bench.lab(criterion="random", replicates=2)
    masks = [Mask.load(bench.path(_made(bench, lab.mask(replicate, 6, 1)))) for replicate in (0, 1)]
    assert masks[0].live == masks[1].live
    assert masks[0].jaccard(masks[1]) == pytest.approx(0.8 / 1.2, abs=0.03)  # of independent masks of 80%


def test_equal_densities_stay_equal_whatever_the_rule(bench):
    grids = {"sibling_pretraining": (6,), "sibling_densities": (0.5,), "variants": ("one_shot", "layerwise")}
    lab = bench.lab(rule="open_lth", grids=grids, replicates=1)
    plan = plan_of(measured({name: EXPERIMENTS[name] for name in ("imp", "siblings")}, lab))
    exact = {stage.label.partition(",")[0] for stage in plan.stages if stage.kind == "prune" and stage.rule is None}
    assert exact == {"one-shot mask", "layerwise mask", "mask of sibling 1", "mask of sibling 2", "mask of sibling 3"}
    assert any(stage.kind == "prune" and stage.rule == "open_lth" for stage in plan.stages)


def test_the_adaptive_search_prunes_by_the_settings_rule(bench):
    grids = {"adaptive_density": 0.5, "adaptive_rewind_step": 6, "adaptive_images": 100}
    lab = bench.lab(rule="open_lth", grids=grids, replicates=1)
    search = next(m.stage for m in EXPERIMENTS["adaptive"](lab) if m.stage.kind == "adaptive_prune")
    mask = Mask.load(bench.path(_made(bench, search.made_mask)))
    fraction = next(
        value["value"] for value in bench.json(search, "values.json")["values"] if value["metric"] == "fraction"
    )
    assert mask.live == mask.size - math.ceil(round(fraction * mask.size, 6)) - 1


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"scope": "layerwise"}, "rule 'open_lth' goes with scope 'global', got 'layerwise'"),
        ({"criterion": "snip"}, "rule is 'open_lth', but criterion 'snip' has rule 'exact' only"),
        ({"levels": 25, "fraction": 0.3}, "levels is 25: pruning 0.3 of the weights so often leaves none"),
    ],
)
def test_a_rule_that_cannot_be_followed_is_refused(bench, changes, words):
    assert bench.setting(**changes)
    with pytest.raises(SettingError, match=words):
        bench.setting(rule="open_lth", **changes)


def test_errors_have_the_precision_that_was_asked_for_and_trainings_their_own(bench):
    lab = bench.lab(precision="bfloat16", eval_precision="float32")
    trained = lab.dense(0)
    model = build_model("resnet8", classes=10, channels=1, seed=0)
    model.load_state_dict(bench.load(trained.final))
    images = trained.eval_images(task(trained, bench.store.root, _paths(bench, trained)), threads=1)
    errors = {precision: evaluate(model, images, precision) for precision in ("float32", "bfloat16")}
    measured = bench.read(trained.measured)
    assert (measured.test_error, measured.test_loss) == errors["float32"] != errors["bfloat16"]
    assert lab.path(trained, trained, "line").precision == "float32"
    assert trained.recipe.precision == "bfloat16"


def test_a_precision_that_is_the_trainings_own_changes_no_stage(bench):
    lab = bench.lab()
    same = bench.lab(eval_precision=lab.setting.precision)
    assert same.dense(0).key == lab.dense(0).key
    assert same.path(same.dense(0), same.dense(1), "line").key == lab.path(lab.dense(0), lab.dense(1), "line").key


def test_lth_diets_order_is_one_for_all_and_its_augmentation_a_replicates(bench):
    lab = bench.lab(reshuffle="lth_diet")
    places = [(0, 0, 0), (0, 2, 6), (1, 0, 0)]
    seeds = [lab.seeds(*place) for place in places]
    assert len({seed.order for seed in seeds}) == 1
    assert [seed.augmentation for seed in seeds] == [
        derive_seed(lab.setting.seed, "augmentation", replicate) for replicate, *_ in places
    ]
    assert lab.seeds(0, data_order_copy=1).order != lab.seeds(1, data_order_copy=1).order


def _made(bench, file):
    bench.run(file.stage)
    return file


def _paths(bench, stage):
    return {name: bench.path(file) for name, file in stage.inputs.items()}
