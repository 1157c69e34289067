"""Axes that hold what is drawn on them and say what they are."""

import pytest
from matplotlib.figure import Figure

from sparselt.report.drawing import dense_label, error_axis, label_ends, matching_band
from sparselt.report.statistic import Statistic


@pytest.mark.parametrize(("means", "scale"), [([1.0, 2.0], "linear"), ([1.0, 20.0], "log")])
def test_an_error_axis_holds_the_bars_and_says_its_scale(means, scale):
    axes = Figure().subplots()
    errors = [Statistic(3, mean / 100, 2 * mean / 100) for mean in means]
    error_axis(axes, errors, [float("nan")])
    assert axes.get_yscale() == scale
    assert axes.get_ylabel() == "test error, %" + (" (log scale)" if scale == "log" else "")
    assert axes.get_ylim()[1] > 3 * means[1]


def test_limits_are_moved_up_to_hold_the_dense_band_so_that_its_label_points_into_it():
    axes = Figure().subplots()
    dense = Statistic.of([0.01, 0.07])
    axes.set_ylim(0, 5)
    matching_band(axes, dense)
    assert 100 * dense.limit < axes.get_ylim()[1]
    label_ends(axes, dense_label(dense))
    assert axes.lines[-1].get_ydata()[0] < 1
    axes.set_ylim(0, 50)
    matching_band(axes, dense)
    assert axes.get_ylim() == (0, 50)
