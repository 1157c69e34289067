"""What a comparison measures and records, and what tables, targets and plots make of records."""

import io
import json
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from sparselt.benchmarks import targets
from sparselt.benchmarks.conditions import Conditions
from sparselt.benchmarks.harness import (
    FIELDS,
    PROBES,
    Case,
    Compare,
    Competitor,
    Rotation,
    percentiles,
    summarize,
)
from sparselt.benchmarks.networks import StepTime, shapes_of, weights
from sparselt.benchmarks.plots import save_plots
from sparselt.benchmarks.table import WIDTH, duration, notes, short, table

HERE = Conditions(device="cpu", quick=True, scale=1e-3, seconds=0.0)
CASE = Case("masked_sgd", "ResNet-50", size=1000, density=0.2)


@pytest.fixture
def compare(benchmark) -> Compare:
    return Compare(benchmark, HERE)


def records(case: Case = CASE, scale: float = 1.0, **options) -> list[dict]:
    seconds = {"MaskedSGD": [2.0, 1.0, 3.0], "fused SGD + mask": [4.0, 8.0, 6.0], "bandwidth": [0.5]}
    seconds = {who: [scale * second for second in times] for who, times in seconds.items()}
    return summarize(case, seconds, device="cpu", **{"moved": 8000, **options})


@given(st.lists(st.floats(1e-9, 1e3), min_size=1, max_size=40))
def test_percentiles_ascend_within_the_times_whatever_their_order(times):
    low, middle, high = percentiles(times)
    assert min(times) <= low <= middle <= high <= max(times)
    assert percentiles(times[::-1]) == (low, middle, high)


def test_percentiles_are_linear_between_neighbours():
    assert percentiles([5.0, 1.0, 3.0, 2.0, 4.0, 0.0]) == (1.0, 2.5, 4.0)


def test_a_record_holds_ratio_floor_and_share_of_a_step():
    ours, theirs = records(step=StepTime(40.0, "ResNet-50, batch 8"))
    assert (ours["ours"], ours["median"], ours["p20"], ours["p80"], ours["rounds"]) == (True, 2.0, 1.4, 2.6, 3)
    assert (theirs["ours"], theirs["median"], theirs["ratio"]) == (False, 6.0, 3.0)
    assert ours["ratio"] == 1.0
    assert ours["bandwidth"] == 16_000  # 8,000 bytes in half a second
    assert (ours["floor"], ours["floor_fraction"], theirs["floor_fraction"]) == (0.5, 0.25, 0.5 / 6)
    assert (ours["step_share"], theirs["step_share"], ours["step_of"]) == (0.05, 0.15, "ResNet-50, batch 8")


def test_a_record_has_every_field_and_is_json():
    for record in [*records(), *records(moved=None), *records(step=StepTime(1.0, "x"), clock="graph")]:
        assert tuple(record) == FIELDS
        assert json.loads(json.dumps(record, allow_nan=False)) == record


def test_without_bytes_to_move_there_is_no_floor():
    assert [record["floor_fraction"] for record in records(moved=None)] == [None, None]


def test_everybody_is_called_once_a_round_each_after_its_own_fresh_data_and_ours_last(compare):
    seen = []

    def competitor(name: str) -> Competitor:
        return Competitor(name, lambda: seen.append(name), lambda: seen.append(f"fresh {name}"))

    made = compare(CASE, competitor("ours"), [competitor("a"), competitor("b")], moved=4096)
    assert seen[-6:] == ["fresh a", "a", "fresh b", "b", "fresh ours", "ours"]
    assert [record["who"] for record in made] == ["ours", "a", "b"]
    assert all(record["rounds"] == made[0]["rounds"] >= 1 for record in made)
    assert made[0]["floor"] > 0


@pytest.mark.parametrize("probe", PROBES)
def test_every_probe_gives_a_floor(probe, compare):
    (ours,) = compare(CASE, Competitor("ours", lambda: None), [], moved=1e5, probe=probe)
    assert (ours["probe"], ours["moved"]) == (probe, 1e5)
    assert 0 < ours["floor"] < 1 and math.isclose(ours["floor"], 1e5 / ours["bandwidth"])


def test_a_competitor_that_fails_is_left_out_with_a_note_and_ours_is_not(compare):
    def fails() -> None:
        raise RuntimeError("out of memory\nand a trace")

    made = compare(CASE, Competitor("ours", lambda: None), [Competitor("theirs", fails)])
    assert [record["who"] for record in made] == ["ours"]
    assert made[0]["note"] == "theirs left out: out of memory"
    assert notes(made) == ["masked_sgd, ResNet-50, ours: theirs left out: out of memory"]


def test_a_failure_of_ours_is_raised(compare, benchmark):
    def fails() -> None:
        raise RuntimeError("ours is broken")

    with pytest.raises(RuntimeError, match="ours is broken"):
        compare(CASE, Competitor("ours", fails), [])
    benchmark.pedantic(lambda: None)  # pytest-benchmark warns of a fixture that was not used


def test_times_taken_elsewhere_become_records(compare):
    made = compare.times(CASE, {"ours": [0.2, 0.1], "theirs": [0.3]}, moved=1000, notes={"theirs": "one epoch"})
    assert [(r["who"], r["rounds"], r["note"]) for r in made] == [("ours", 2, ""), ("theirs", 1, "one epoch")]
    assert made[1]["ratio"] == pytest.approx(2.0) and made[0]["floor"] > 0


def test_a_rotation_comes_round():
    rotation, seen = Rotation("a", "b"), []
    for _ in range(3):
        seen.append(rotation.now)
        rotation.turn()
    assert seen == ["a", "b", "a"]


def test_networks_have_the_papers_numbers_of_weights():
    assert weights(shapes_of("ResNet-20")) == sum(p.numel() for p in resnet20().parameters())
    assert weights(shapes_of("ResNet-50")) == 25_557_032


def resnet20() -> torch.nn.Module:
    from sparselt.models import MODELS

    return MODELS["resnet20"](10, 3)


def test_targets_say_met_or_missed_of_the_records_they_concern():
    made = records(Case("masked_sgd", "ResNet-50", size=1000))
    assert [targets.verdict(record) for record in made] == ["", "≥ 1.5× met"]
    slow = summarize(
        Case("masked_sgd", "ResNet-50", 1000), {"MaskedSGD": [1.0], "fused SGD + mask": [1.1]}, device="cpu"
    )
    assert targets.verdict(slow[1]) == "≥ 1.5× missed"
    (checked,) = targets.check(slow)
    assert (checked["found"], checked["met"], checked["rival"]) == (1.1, False, "fused SGD + mask")
    assert not targets.check(records(Case("masked_sgd", "ResNet-50", 1000, density=0.5)))


def test_a_target_of_bandwidth_asks_ours_and_only_on_its_device():
    made = records(Case("masked_sgd", "ResNet-50", size=1000))
    assert not any("%" in targets.verdict(record) for record in made)
    on_gpu = [record | {"device": "cuda", "clock": "events"} for record in made]
    assert [targets.verdict(record) for record in on_gpu] == ["≥ 85% missed", "≥ 1.5× met"]


def test_every_target_names_a_case_and_a_rival_that_a_suite_has():
    from sparselt.benchmarks.bench_masked_adam import ADAM
    from sparselt.benchmarks.bench_masked_sgd import SGD
    from sparselt.benchmarks.command import HOME
    from sparselt.benchmarks.optimizers import Problem

    sources = "".join(path.read_text() for path in HOME.glob("bench_*.py"))
    sources += "".join(f'"{rival.name}"' for rule in (SGD, ADAM) for rival in Problem(rule, [(4, 3)], 1.0).rivals())
    for target in targets.TARGETS:
        assert target.floor or f'"{target.rival}"' in sources or target.rival == "lerp-and-mask loop" in sources, target
        assert bool(target.floor) != bool(target.rival)


@given(st.floats(1e-8, 1e4))
def test_durations_have_three_digits_and_a_unit(seconds):
    number, unit = duration(seconds).split()
    assert float(number) * {"s": 1, "ms": 1e-3, "µs": 1e-6}[unit] == pytest.approx(seconds, rel=0.006, abs=6e-9)


@given(st.floats(1, 1e11))
def test_short_numbers_have_three_digits(number):
    text = short(number)
    scale = {"k": 1e3, "M": 1e6, "G": 1e9}.get(text[-1], 1.0)
    assert float(text.rstrip("kMG")) * scale == pytest.approx(number, rel=0.006)
    assert len(text) <= 5 or number >= 1e12


@pytest.mark.parametrize("width", [WIDTH, 80])
def test_the_table_keeps_its_width(width):
    cases = [
        Case("magnitude_threshold", "ResNet-50, path without masks", size=25_557_032, density=0.05, K=30),
        Case("masked_sgd", "ResNet-50", size=25_557_032),
    ]
    made = [r for i, case in enumerate(cases) for r in records(case, 10.0**-i, step=StepTime(1.0, "x"), clock="graph")]
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(table(made, "a title"))
    lines = console.export_text().splitlines()
    assert max(map(len, lines)) <= width
    if width == WIDTH:
        text = "\n".join(lines)
        assert all(word in text for word in ("MaskedSGD", "fused SGD + mask", "25,557,032 weights", "density 0.05"))
        assert all(word in text for word in ("CUDA graph", "3.00×", "25%", "≥ 1.5× met", "2.00 s", "20–80%"))


def test_more_than_the_floor_is_explained():
    case = Case("masked_sgd", "8 ResNet-20s at once", size=1000)
    assert not [line for line in notes(records(case)) if "caches" in line]
    fast = [{**record, "floor_fraction": 2.07} for record in records(case)]
    assert [
        line for line in notes(fast) if line.startswith("Over 100% of the floor: part of the data stayed in caches")
    ]


def test_the_table_says_images_per_second():
    console = Console(width=WIDTH, record=True, file=io.StringIO())
    console.print(table(records(Case("data", "epoch", size=4_000, unit="images")), "a title"))
    assert "4,000 images, 2k/s" in console.export_text()


def test_plots_are_drawn_for_sweeps_of_two_points_or_more(tmp_path):
    sweep = [r for k in (1, 9) for r in records(Case("interpolate", "ResNet-20", 1000, K=k, sweep="K"), scale=k)]
    lone = records(Case("interpolate", "ResNet-20", 1000, sweep="size"))
    sizes = [r for n in (10, 10**6) for r in records(Case("interpolate", "x", n, sweep="size"), scale=1e-6 * n)]
    densities = [r for d in (1.0, 0.1) for r in records(Case("masked_sgd", "y", 9, density=d, sweep="density"))]
    written = save_plots([*sweep, *lone, *sizes, *densities, *records()], tmp_path, "machine", "A Machine")
    names = {f"interpolate-against-{sweep}" for sweep in ("K", "size")} | {"masked_sgd-against-density"}
    expected = {f"machine-{name}.{kind}" for name in names for kind in ("png", "svg")}
    assert {path.name for path in written} == {path.name for path in tmp_path.iterdir()} == expected
    text = (tmp_path / "machine-interpolate-against-K.svg").read_text()
    assert all(word in text for word in ("MaskedSGD", "fused SGD + mask", "moving the bytes", "A Machine"))


def test_no_sweep_no_plot(tmp_path):
    assert save_plots(records(), tmp_path, "machine", "A Machine") == []
    assert not list(tmp_path.iterdir())
