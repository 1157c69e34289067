"""The sections of a report, one for each experiment."""

import dataclasses
import importlib
import re
from collections.abc import Callable, Mapping
from typing import Any

from sparselt import own
from sparselt.errors import SettingError
from sparselt.experiments.experiment import Experiment
from sparselt.report.data import Claim, Data, Drawing, Section, once
from sparselt.report.table import Table

_FILE = re.compile(r"[A-Za-z0-9_-]+")
_GIVES: dict[str, tuple[type[dict] | type[list], type]] = {
    "drawings": (dict, Drawing),
    "findings": (list, str),
    "claims": (list, Claim),
    "warnings": (list, str),
    "tables": (list, Table),
}
"""What each function of a section gives: the collection, and what it holds."""


def sections_of(experiments: Mapping[str, Experiment]) -> dict[str, Section]:
    """The sections of experiments by name, in their order, of those that have one.

    A function of a section that fails, or gives something else than the report can show, raises a SettingError that
    names the experiment.

    Raises:
        SettingError: an experiment whose report does not import, or has no SECTION.
    """
    found = {}
    drawn: dict[str, str] = {}
    for name, experiment in experiments.items():
        if experiment.report:
            try:
                section = importlib.import_module(experiment.report).SECTION
            except Exception as error:
                raise SettingError(
                    f"experiment {name}: {error}; expected its report {experiment.report!r} to be a module with a "
                    "SECTION (sparselt.report.data.Section)"
                ) from error
            if not isinstance(section, Section):
                raise SettingError(
                    f"experiment {name}: SECTION of {experiment.report} is {section!r}; expected a "
                    "sparselt.report.data.Section"
                )
            checked: dict[str, Any] = {of: _checked(name, of, getattr(section, of), drawn) for of in _GIVES}
            found[name] = dataclasses.replace(section, **checked)
    return found


def _checked(experiment: str, of: str, function: Callable[[Data], Any], drawn: dict[str, str]) -> Callable[[Data], Any]:
    """A function of a section, whose mistakes name the experiment. drawn: the experiment of each figure's file."""
    kind, item = _GIVES[of]
    what = f"experiment {experiment}: {of}(data) of its report"
    expected = f"a {kind.__name__} of {item.__name__}" + (" by name" if kind is dict else "")
    if not callable(function):
        raise SettingError(f"{what} is {function!r}; expected a function that returns {expected}")

    def checked(data: Data) -> Any:
        found = own.called(what, function, data, expected=f"{expected}; the measurements are kept in results.csv")
        items = found.values() if isinstance(found, dict) else found
        if not isinstance(found, kind) or not all(isinstance(each, item) for each in items):
            raise SettingError(f"{what} returned {found!r:.200}; expected {expected}; results.csv is kept")
        for name in found if kind is dict else ():
            if not _FILE.fullmatch(str(name)) or drawn.setdefault(name, experiment) != experiment:
                raise SettingError(
                    f"{what} calls a figure {name!r}; expected letters, digits, _ and -, and no other experiment's "
                    "figure of that name"
                )
        return found

    # The page and the terminal ask for the same sentences. Figures are drawn once, and not kept.
    return checked if of == "drawings" else once(checked)
