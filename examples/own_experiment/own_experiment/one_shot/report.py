"""The section of `one_shot` in the report: a figure, a sentence for each criterion, a judged claim."""

from sparselt.report import drawing
from sparselt.report.data import Claim, Data, Drawing, Section
from sparselt.report.rules import lower
from sparselt.report.statistic import Values
from sparselt.report.wording import percent


def drawings(data: Data) -> dict[str, Drawing]:
    """Test error against density, a line for each criterion."""
    figure, (axes,) = drawing.canvas(3.4)
    errors = _errors(data)
    lines = [(drawing.look(place, name), found.items()) for place, (name, found) in enumerate(errors.items())]
    ends = drawing.bars(axes, lines)
    densities = {density for found in errors.values() for density in found}
    drawing.density_axis(axes, densities, 1.2 * max(densities), min(densities) / 1.2)
    drawing.error_axis(axes, [values.statistic for found in errors.values() for values in found.values()])
    drawing.label_ends(axes, ends)
    caption = "Networks pruned once and rewound. Mean and standard deviation over replicates."
    return {"one_shot_errors": Drawing(figure, "Error after pruning once", caption)}


def findings(data: Data) -> list[str]:
    """The error of the sparsest networks, by criterion."""
    return [
        f"Pruned once by {criterion} to {percent(min(found))} of the weights, networks err on {found[min(found)]:.2%}."
        for criterion, found in _errors(data).items()
    ]


def claims(data: Data) -> list[Claim]:
    """Judges whether LAMP errs less than magnitude pruning, at the lowest density that was measured."""
    sparsest = {criterion: found[min(found)] for criterion, found in _errors(data).items()}
    if not {"magnitude", "lamp"} <= sparsest.keys():
        return []
    magnitude, lamp = sparsest["magnitude"], sparsest["lamp"]
    here = f"{lamp:.2%} against {magnitude:.2%}"
    return [lower(lamp, magnitude).claim("Lee et al. 2021 (LAMP)", "LAMP prunes better than magnitudes do", here)]


SECTION = Section("Pruning once", drawings, findings, claims)


def _errors(data: Data) -> dict[str, dict[float, Values]]:
    """Test errors by criterion and density."""
    by_place = data.by(".criterion", "density", experiment="one_shot", variant="pruned", metric="test_error")
    found: dict[str, dict[float, Values]] = {}
    for (criterion, density), errors in by_place.items():
        found.setdefault(criterion.rpartition(":")[2], {})[density] = errors
    return found
