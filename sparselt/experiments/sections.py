"""The sections of a report, one for each experiment."""

import importlib
from collections.abc import Mapping
from typing import TYPE_CHECKING

from sparselt.errors import SettingError
from sparselt.experiments.experiment import Experiment

if TYPE_CHECKING:
    from sparselt.report.data import Section


def sections_of(experiments: Mapping[str, Experiment]) -> "dict[str, Section]":
    """The sections of experiments by name, in their order, of those that have one.

    Raises:
        SettingError: an experiment whose report does not import, or has no SECTION.
    """
    found = {}
    for name, experiment in experiments.items():
        if experiment.report:
            try:
                found[name] = importlib.import_module(experiment.report).SECTION
            except (ImportError, AttributeError) as error:
                raise SettingError(
                    f"experiment {name}: {error}; expected its report {experiment.report!r} to be a module with a "
                    "SECTION (sparselt.report.data.Section)"
                ) from error
    return found
