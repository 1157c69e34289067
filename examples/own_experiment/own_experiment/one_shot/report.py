"""The section of `one_shot` in the report: a figure, a sentence for each criterion, a judged claim."""

from sparselt.report import drawing
from sparselt.report.data import Claim, Data, Drawing, Section
from sparselt.report.statistic import Statistic
from sparselt.report.verdicts import lower
from sparselt.report.wording import mean_and_std, percent


def drawings(data: Data) -> dict[str, Drawing]:
    """Test error against density, a line for each criterion."""
    figure, (axes,) = drawing.canvas(3.4)
    shown = []
    for place, (criterion, errors) in enumerate(_errors(data).items()):
        points = [(density, Statistic.of(values.values())) for density, values in errors.items()]
        drawing.bars(axes, points, drawing.look(place, criterion), label=criterion)
        shown += points
    densities = [density for density, _ in shown]
    drawing.density_axis(axes, set(densities), 1.2 * max(densities), min(densities) / 1.2)
    drawing.error_axis(axes, [statistic for _, statistic in shown])
    axes.legend(frameon=False)
    caption = "Networks pruned once and rewound. Mean and standard deviation over replicates."
    return {"one_shot_errors": Drawing(figure, "Error after pruning once", caption)}


def findings(data: Data) -> list[str]:
    """The error of the sparsest networks, by criterion."""
    found = []
    for criterion, errors in _errors(data).items():
        sparsest = min(errors)
        error = mean_and_std(Statistic.of(errors[sparsest].values()))
        found.append(f"Pruned once by {criterion} to {percent(sparsest)} of the weights, networks err on {error}%.")
    return found


def claims(data: Data) -> list[Claim]:
    """Whether LAMP does better than the magnitude, where both keep the fewest weights."""
    sparsest = {criterion: errors[min(errors)] for criterion, errors in _errors(data).items()}
    if not {"magnitude", "lamp"} <= sparsest.keys():
        return []
    magnitude, lamp = sparsest["magnitude"], sparsest["lamp"]
    here = " against ".join(f"{mean_and_std(Statistic.of(values.values()))}%" for values in (lamp, magnitude))
    return [lower(lamp, magnitude).claim("Lee et al. 2021 (LAMP)", "LAMP prunes better than magnitudes do", here)]


SECTION = Section("Pruning once", drawings, findings, claims)


def _errors(data: Data) -> dict[str, dict[float, dict[int, float]]]:
    """Test errors by criterion, density and replicate."""
    by_place = data.by(".criterion", "density", experiment="one_shot", variant="pruned", metric="test_error")
    found: dict[str, dict[float, dict[int, float]]] = {}
    for (criterion, density), errors in by_place.items():
        found.setdefault(criterion.rpartition(":")[2], {})[density] = errors
    return found
