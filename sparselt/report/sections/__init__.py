"""How each experiment is reported, by its name, in the order of a page."""

from sparselt.report.section import Section
from sparselt.report.sections import (
    adaptive,
    connectivity,
    flatness,
    imp,
    landscape,
    rewind_to_init,
    siblings,
    stability,
)

SECTIONS: dict[str, Section] = {
    "imp": imp.SECTION,
    "connectivity": connectivity.SECTION,
    "landscape": landscape.SECTION,
    "adaptive": adaptive.SECTION,
    "flatness": flatness.SECTION,
    "stability": stability.SECTION,
    "rewind_to_init": rewind_to_init.SECTION,
    "siblings": siblings.SECTION,
}
