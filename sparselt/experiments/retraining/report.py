"""Retraining makes new small weights to prune (Paul et al. 2022, Unmasking, in the version of ICLR 2023).

The claim is on weight rewinding: at the judged level, what the next pruning removes is smaller after the level's
training than without it. The other ways of training again are described and not judged: that fine-tuning does not make
small weights is known to us at third hand only.
"""

from collections.abc import Iterator

from sparselt.report import drawing as draw
from sparselt.report.data import Claim, Data, Drawing, Section, listed, once
from sparselt.report.rules import judged_level, lower
from sparselt.report.statistic import Statistic, Values
from sparselt.report.wording import p_text, percent

_PAPER = "Paul et al. 2023 (Unmasking, ICLR)"
_NAMES = {"imp": "weight rewinding", "lr_rewinding": "learning-rate rewinding", "fine_tuning": "fine-tuning"}
_LOOKS = {name: draw.Look(_NAMES[name], draw.COLOURS[place], draw.MARKERS[place]) for place, name in enumerate(_NAMES)}
_WITHOUT = draw.Look("not trained again", draw.GREY, "x", "--")


@once
def sizes(data: Data) -> dict[tuple[str, str, int], Values]:
    """`pruned_size` by variant, by whether it was trained again (`yes`, `no`), and by level."""
    return data.by("variant", ".retrained", "level", experiment="retraining", metric="pruned_size")


@once
def densities(data: Data) -> dict[int, float]:
    """The density of each measured level."""
    return {row.level: row.density for row in data.select(experiment="retraining", metric="pruned_size")}


@listed
def findings(data: Data) -> Iterator[str]:
    """For each way of retraining, how small the weights are that the next level prunes, with it and without it."""
    level = judged_level(densities(data))
    for name, text in _NAMES.items():
        after, before = (sizes(data).get((name, retrained, level)) for retrained in ("yes", "no"))
        if after and before:
            judged = lower(after, before)
            tested = judged.statistic + ("" if judged.p is None else f", {p_text(judged.p)}")
            yield (
                f"At {percent(densities(data)[level])} of the weights, what the next pruning removes has {after:.2f} "
                f"of the live weights' root mean square after {text}, {before:.2f} without training again ({tested})."
            )


@listed
def claims(data: Data) -> Iterator[Claim]:
    """Retraining finds a network with new small weights to prune."""
    level = judged_level(densities(data))
    after, before = (sizes(data).get(("imp", retrained, level)) for retrained in ("yes", "no"))
    if after and before:
        yield lower(after, before).claim(
            _PAPER,
            "the role of retraining in iterative magnitude pruning is to find a network with new small weights to "
            "prune",
            f"at {percent(densities(data)[level])} of the weights, what the next pruning removes has {after:.2f} of "
            f"the live weights' root mean square, {before:.2f} without training again",
        )


def drawings(data: Data) -> dict[str, Drawing]:
    """Two figures: the size of what is pruned next against density, and histograms of one level."""
    drawn = [name for name in _NAMES if any(variant == name for variant, _, _ in sizes(data))]
    if not drawn:
        return {}
    figure, panels = draw.canvas(3.4, 1, len(drawn), sharey=True)
    for axes, name in zip(panels, drawn, strict=True):
        lines = [
            (look, [(densities(data)[n], sizes(data)[name, retrained, n]) for n in sorted(densities(data))])
            for look, retrained in ((_LOOKS[name], "yes"), (_WITHOUT, "no"))
        ]
        draw.bars(axes, lines, scale=1, move=lambda density, side: density * 1.012**side)
        ends = max(densities(data).values()) * 1.06, min(densities(data).values()) / 1.06
        draw.density_axis(axes, densities(data).values(), *ends)
        axes.set_xlabel("")
        axes.set_title(_NAMES[name], fontsize=10)
    panels[0].set_ylim(bottom=0)  # the panels share it, so it is set when all are drawn
    panels[0].set_ylabel("size of what is pruned next,\nroot mean square of live weights = 1")
    figure.supxlabel("weights remaining, % (log scale)", fontsize=10)
    found = {
        "retraining": Drawing(
            figure,
            "How small the weights are that the next level prunes",
            "Root mean square of the weights that the next pruning removes, over that of all live weights. Coloured: "
            "after the level was trained again; dashed grey: the solution before it, under the same mask. Mean and "
            "standard deviation over replicates.",
        )
    }
    return found | _histograms(data, drawn)


SECTION = Section("What retraining makes small", drawings, findings, claims)


def _histograms(data: Data, drawn: list[str]) -> dict[str, Drawing]:
    shares = data.by("variant", ".retrained", "level", "position", experiment="retraining", metric="magnitude_share")
    levels = {level for _, _, level, _ in shares}
    if not levels:
        return {}
    (level,) = levels
    figure, panels = draw.canvas(3.2, 1, len(drawn), sharey=True)
    for axes, name in zip(panels, drawn, strict=True):
        for retrained, look in (("no", _WITHOUT), ("yes", _LOOKS[name])):
            points = sorted((at[3], values) for at, values in shares.items() if at[:2] == (name, retrained))
            heights = [100 * Statistic.of(values.values()).mean for _, values in points]
            axes.step([x for x, _ in points], heights, where="mid", color=look.colour, linestyle=look.line)
        axes.set_title(_NAMES[name], fontsize=10)
    figure.supxlabel("magnitude / root mean square", fontsize=10)
    panels[0].set_ylim(bottom=0)  # the panels share it, so it is set when all are drawn
    panels[0].set_ylabel("live weights (%)")
    return {
        "retraining_histograms": Drawing(
            figure,
            f"Magnitudes of the live weights at {percent(densities(data)[level])} of the weights",
            "Dashed grey: the solution before, under the mask of this level: the smallest weights are gone. Coloured: "
            "after the level was trained again. Means over replicates; magnitudes above three times the root mean "
            "square are not shown.",
        )
    }
