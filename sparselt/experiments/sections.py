"""How the built-in experiments are reported."""

import importlib
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sparselt.report.data import Section

_NAMES = ("imp", "connectivity", "landscape", "adaptive", "flatness", "stability", "rewind_to_init", "siblings")


def built_in_sections() -> "Mapping[str, Section]":
    """The sections of the built-in experiments by name, in the order of a page; imported when they are asked for."""
    return {name: importlib.import_module(f"sparselt.experiments.{name}.report").SECTION for name in _NAMES}
