"""What an experiment is: measurements of a lab, and whether a setting can run it."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from sparselt.errors import SettingError
from sparselt.experiments.lab import Lab
from sparselt.experiments.measurement import Measurement
from sparselt.experiments.setting import Setting


@dataclass(frozen=True)
class Experiment:
    """A thin driver.

    Args:
        measure: yields the measurements of a lab. Where the next stage depends on what an earlier one measured, it
            asks `lab.found`, and yields what can be planned so far; it is asked again once that has run. It asks at
            once for every checkpoint it may want (`lab.checkpoint(…).stage`): a training is repeated for new outputs.
        paper: authors and year.
        why_not: why a setting cannot run it, as the end of a sentence; empty if it can.
    """

    measure: Callable[[Lab], Iterator[Measurement]]
    paper: str
    why_not: Callable[[Setting], str] = lambda setting: ""

    def __call__(self, lab: Lab) -> Iterator[Measurement]:
        """The measurements; those of a setting that cannot run it are none.

        Raises:
            SettingError: a driver that yields nothing to iterate over, or what is no measurement.
        """
        if self.why_not(lab.setting):
            return
        name = getattr(self.measure, "__name__", "the driver")
        found = self.measure(lab)
        if not isinstance(found, Iterable):
            raise SettingError(f"{name}(lab) returned {found!r}; expected measurements: yield them")
        for measurement in found:
            if not isinstance(measurement, Measurement):
                raise SettingError(
                    f"{name}(lab) yields a {type(measurement).__name__}; expected a Measurement, which says where in "
                    "the table of results a stage's numbers stand"
                )
            yield measurement

    @property
    def title(self) -> str:
        """The first line of the driver's docstring; empty if it has none."""
        return next(iter((self.measure.__doc__ or "").strip().splitlines()), "")
