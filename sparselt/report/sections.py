"""How each experiment is reported, by its name, in the order of a page."""

from sparselt.experiments.adaptive import report as adaptive
from sparselt.experiments.connectivity import report as connectivity
from sparselt.experiments.flatness import report as flatness
from sparselt.experiments.imp import report as imp
from sparselt.experiments.landscape import report as landscape
from sparselt.experiments.rewind_to_init import report as rewind_to_init
from sparselt.experiments.siblings import report as siblings
from sparselt.experiments.stability import report as stability
from sparselt.report.section import Section

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
