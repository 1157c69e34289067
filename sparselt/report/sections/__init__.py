"""How each experiment beyond IMP and its connectivity is reported, by its name."""

from sparselt.report.section import Section

SECTIONS: dict[str, Section] = {}
