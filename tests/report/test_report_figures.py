"""The path through the levels: what its enlarged part holds, and of how many networks its lines are."""

import dataclasses

import pytest

from sparselt.experiments.imp.figures import error_along_path, lead_drawings
from sparselt.report.data import Data
from sparselt.report.run import read_run


def test_the_enlarged_path_holds_all_replicates_of_the_rewind_steps_that_it_shows(tmp_path, invent):
    data = read_run(invent.run(tmp_path)).data
    top, bottom = error_along_path(data).axes
    assert (top.get_ylabel(), bottom.get_ylabel()) == ("test error, %", "test error, %, enlarged")
    low, high = bottom.get_ylim()
    replicates = [line.get_ydata() for line in bottom.lines if line.get_linewidth() == 0.5]
    inside = [low <= min(errors) and max(errors) <= high for errors in replicates]
    # Four of either rewind step after the first, whose barriers of tens of points are not for this part.
    assert sum(inside) == 8 and sum(max(errors) > 3 * high for errors in replicates) == 4


@pytest.mark.parametrize("more", [0, 3])
def test_a_path_says_if_it_starts_at_fewer_dense_networks_than_the_grey_line_is_of(tmp_path, invent, more):
    data = read_run(invent.run(tmp_path, invent.rows(rewind_steps=(0,), levels=2, replicates=2, controls=False))).data
    dense = [row for row in data.rows if row.variant == "dense" and not row.replicate]
    rows = [*data.rows, *(dataclasses.replace(row, replicate=2 + k) for row in dense for k in range(more))]
    caption = lead_drawings(Data(rows, {}))["error_along_path"].caption
    assert ("that of 5 networks, of which the paths start from 2" in caption) == bool(more)
    assert "start on the grey line" in caption or not more
