"""bfloat16 against float32; precision.py says what was measured."""

import json
import statistics

import precision
import torch
from scipy.stats import ttest_ind, ttest_rel

MEASURED = json.loads(precision.FILE.read_text())


def column(trained: str, evaluated: str) -> list[float]:
    return [errors[evaluated] for errors in MEASURED[trained]]


def test_bfloat16_ends_within_the_replicates_standard_deviation_of_float32():
    exact, rounded = column("float32", "float32"), column("bfloat16", "bfloat16")
    assert len(exact) == len(rounded) == precision.REPLICATES
    difference = statistics.mean(rounded) - statistics.mean(exact)
    assert abs(difference) < 0.5 * min(statistics.stdev(exact), statistics.stdev(rounded))
    assert ttest_ind(exact, rounded, equal_var=False).pvalue > 0.3 and ttest_rel(exact, rounded).pvalue > 0.3


def test_the_precision_of_the_evaluation_moves_no_network_by_more_than_one_image():
    for trained in MEASURED:
        pairs = zip(column(trained, "float32"), column(trained, "bfloat16"), strict=True)
        assert max(abs(a - b) for a, b in pairs) <= 1 / precision.IMAGES + 1e-9


def test_a_network_trained_in_bfloat16_today_is_one_of_those(tmp_path):
    torch.set_num_threads(1)
    found = precision.errors(precision.read_digits(tmp_path), 0, "bfloat16")
    assert abs(found["float32"] - found["bfloat16"]) <= 1 / precision.IMAGES + 1e-9
    assert found["bfloat16"] <= max(column("float32", "float32")) + 0.005
