"""The measurements of `stability` as its section asks for them."""

from collections.abc import Mapping

from sparselt.report.section import Data
from sparselt.report.verdicts import Values
from sparselt.report.wording import percent

RATES = {"standard": "standard", "low": "low", "warmup": "warm-up"}
STABILITIES = {"pruning": "pruning", "order": "data order"}


def measured_levels(data: Data) -> list[int]:
    """Ascending."""
    return sorted({row.level for row in data.select(experiment="stability", metric="angle")})


def rewind_steps(data: Data, level: int) -> list[int]:
    """The rewind steps at the standard learning rate."""
    rows = data.select(experiment="stability", metric="angle", level=level, condition="rate=standard stability=order")
    return sorted({row.rewind_step for row in rows})


def measured_rates(data: Data) -> list[str]:
    """The learning rates measured at rewind step 0."""
    rows = data.select(experiment="stability", metric="angle", rewind_step=0)
    conditions = {row.condition.split()[0] for row in rows}
    return [rate for rate in RATES if f"rate={rate}" in conditions]


def distances(
    data: Data, metric: str, variant: str, level: int, step: int, rate: str = "standard", kind: str = "order"
) -> Values:
    """`angle` or `l2_distance` of `imp` or `random`; kind: a name of `STABILITIES`."""
    found = data.by(
        experiment="stability",
        metric=metric,
        variant=variant,
        level=level,
        rewind_step=step,
        condition=f"rate={rate} stability={kind}",
    )
    return found.get((), {})


def angles(data: Data, variant: str, level: int, step: int, rate: str = "standard", kind: str = "order") -> Values:
    """Degrees."""
    return distances(data, "angle", variant, level, step, rate, kind)


def errors(data: Data, variant: str, level: int, step: int | None, rate: str = "standard") -> Mapping[int, float]:
    """Test errors of `dense`, `imp` or `random`."""
    found = data.by(
        experiment="stability",
        metric="test_error",
        variant=variant,
        level=level,
        rewind_step=step,
        condition=f"rate={rate}",
    )
    return found.get((), {})


def dense_errors(data: Data, rate: str = "standard") -> Values:
    """Test errors of the dense networks at a learning rate."""
    return errors(data, "dense", 0, None, rate)


def density(data: Data, level: int) -> str:
    """Weights remaining, in words."""
    return percent(data.select(experiment="stability", metric="angle", level=level)[0].density)
