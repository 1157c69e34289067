"""What an experiment is: measurements of a lab, the values that it varies, and how it is reported."""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from sparselt import own
from sparselt.errors import SettingError
from sparselt.experiments.lab import Lab
from sparselt.experiments.measurement import Measurement
from sparselt.experiments.options import Options
from sparselt.experiments.setting import Setting


@dataclass(frozen=True)
class Experiment:
    """A thin driver.

    Args:
        measure: yields the measurements of a lab. Where the next stage depends on an earlier result, it asks
            `lab.read_if_made`, and yields what can be planned so far; it is asked again once that has run. It asks at
            once for every checkpoint it may want (`lab.checkpoint(…).stage`): a training is repeated for new outputs.
        paper: authors and year.
        unsupported_reason: why a setting cannot run it, as the end of a sentence; empty if it can.
        rests_on: by the name of another experiment, a function that yields those of its measurements that this one's
            report needs, under the name that it is given. They are made in runs without the other experiment.
        options: the dataclass of the values that it varies; None if it varies none of its own.
        report: a module with a `SECTION` (`sparselt.report.data.Section`), its part of the report; empty: the report
            lists its errors and paths plainly.
        order: its place in the table of results and in a report.
        main: whether it shows the main finding of a paper (`--experiments main`).
    """

    measure: Callable[[Lab], Iterator[Measurement]]
    paper: str
    unsupported_reason: Callable[[Setting], str] = lambda setting: ""
    options: type[Options] | None = None
    report: str = ""
    order: int = 100
    main: bool = False
    rests_on: Mapping[str, Callable[[Lab, str], Iterator[Measurement]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("measure", "unsupported_reason"):
            if not callable(found := getattr(self, name)):
                raise SettingError(f"Experiment: {name} is {found!r}; expected a function")
        if not (isinstance(self.rests_on, Mapping) and all(map(callable, self.rests_on.values()))):
            raise SettingError(
                f"Experiment: rests_on is {self.rests_on!r}; expected functions by name of an experiment"
            )
        for name, kind in (("paper", str), ("report", str), ("order", int)):
            if not isinstance(found := getattr(self, name), kind):
                raise SettingError(f"Experiment: {name} is {found!r}; expected a {kind.__name__}")

    def __call__(self, lab: Lab) -> Iterator[Measurement]:
        """The measurements; none if the setting cannot run the experiment.

        Raises:
            SettingError: a driver that yields nothing to iterate over, or something other than measurements.
        """
        if self.reason_against(lab.setting):
            return
        name = self._driver
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

    def supporting(self, name: str, lab: Lab, beside: Collection[str]) -> Iterator[Measurement]:
        """The measurements that this experiment, called `name`, needs and that no experiment in `beside` makes."""
        for other, measure in self.rests_on.items():
            if other not in beside:
                yield from measure(lab, name)

    def reason_against(self, setting: Setting) -> str:
        """`unsupported_reason` of a setting, checked. SettingError: it raises, or gives something else than a text."""
        name = getattr(self.unsupported_reason, "__name__", "unsupported_reason")
        what = f"{name}(setting) of the experiment with driver {self._driver}"
        found = own.called(what, self.unsupported_reason, setting, expected="a reason against the setting, or ''")
        if not isinstance(found, str):
            raise SettingError(f"{what} returned {found!r}; expected a reason against the setting, or ''")
        return found

    @property
    def _driver(self) -> str:
        return getattr(self.measure, "__name__", "the driver")

    @property
    def title(self) -> str:
        """The first line of the driver's docstring; empty if it has none."""
        return next(iter((self.measure.__doc__ or "").strip().splitlines()), "")
