"""The error landscape around a solution, its projection by the next mask, and the next solution."""

from collections.abc import Iterator

from sparselt.experiments.experiment import Experiment
from sparselt.experiments.lab import Lab
from sparselt.experiments.landscape.options import LandscapeOptions
from sparselt.experiments.measurement import Measurement
from sparselt.experiments.setting import Setting
from sparselt.experiments.solutions import all_errors
from sparselt.stages.planes import EvaluatePlane, EvaluateProjection
from sparselt.stages.stage import Stage


def landscape(lab: Lab) -> Iterator[Measurement]:
    """Does the next level stay in the solution's linearly connected sublevel set? (Paul et al. 2022, Figs. 3, 7, 8)

    The LCS-set of w(L) holds what is joined to it by a straight line on which the error stays at most that of w(L) plus
    ε (Def. 2.1). Variant `imp`; the row of a pair of levels stands at its lower one, L.

    Without a plane, for all levels and rewind steps: path_error and max_error along the lines from w(L) to its
    projection m(L+1) ⊙ w(L), condition `line=projection`, and to w(L+1), condition `line=next`.

    Condition `plane=grid` (`landscape_levels`, at the first and the last rewind step): plane_error at (position,
    position_2), coordinates in the plane through the three in units of distance between parameters; solution_error,
    projection_error and next_solution_error at theirs. Outside their triangle only prunable parameters are
    extrapolated (appendix C).

    In a run without `imp` also the test errors of the dense networks and the tickets: they say which levels match, and
    give ε.
    """
    setting, options = lab.setting, lab.setting.option(LandscapeOptions)
    drawn = {min(setting.rewind_steps), max(setting.rewind_steps)}
    for replicate in range(setting.replicates):
        for rewind_step in setting.rewind_steps:
            for level in range(setting.levels):
                for condition, stage, metrics in _lines(lab, replicate, rewind_step, level):
                    yield _measured(lab, replicate, rewind_step, level, stage, condition, metrics)
            if rewind_step in drawn and replicate < options.landscape_replicates:
                for level in options.landscape_levels:
                    stage = _plane(lab, replicate, rewind_step, level)
                    yield _measured(lab, replicate, rewind_step, level, stage, "plane=grid", ())


def unsupported_reason(setting: Setting) -> str:
    """Why a setting does not run it; empty if it does."""
    return setting.option(LandscapeOptions).unset(landscape_levels=setting.levels - 1)


def _lines(lab: Lab, replicate: int, step: int, level: int) -> Iterator[tuple[str, Stage, tuple[str, ...]]]:
    """The straight lines from one solution, with what of each is wanted."""
    place = f"replicate {replicate}, rewind {step}, level {level}"
    points = lab.setting.path_points
    first, following = lab.ticket(replicate, step, level), lab.ticket(replicate, step, level + 1)
    projection = EvaluateProjection(
        points=points,
        first=first.final,
        mask=lab.mask(replicate, step, level + 1),
        **lab.evaluation_arguments,
        label=f"path to the projection, {place}",
        work=points,
    )
    wanted = ("path_error", "max_error")
    yield "line=projection", projection, wanted
    yield "line=next", lab.path(first, following, f"path to the next level, {place}"), wanted


def _plane(lab: Lab, replicate: int, step: int, level: int) -> Stage:
    """The grid over one plane."""
    side = lab.setting.option(LandscapeOptions).landscape_points
    return EvaluatePlane(
        points=side,
        first=lab.ticket(replicate, step, level).final,
        mask=lab.mask(replicate, step, level + 1),
        third=lab.ticket(replicate, step, level + 1).final,
        **lab.evaluation_arguments,
        label=f"plane, replicate {replicate}, rewind {step}, level {level}",
        work=side * side + 3,
    )


def _measured(
    lab: Lab, replicate: int, step: int, level: int, stage: Stage, condition: str, metrics: tuple[str, ...]
) -> Measurement:
    return Measurement(
        "landscape",
        "imp",
        replicate,
        step,
        level,
        stage,
        to_level=level + 1,
        network=lab.ticket(replicate, step, level),
        condition=condition,
        metrics=metrics,
    )


EXPERIMENT = Experiment(
    landscape,
    "Paul et al. 2022",
    unsupported_reason,
    LandscapeOptions,
    rests_on={"imp": all_errors},
    report="sparselt.experiments.landscape.report",
    order=3,
)
