"""Settings whose experiments vary the values that a test names, and nothing else."""

import dataclasses
from types import SimpleNamespace

from sparselt.experiments import option_types
from sparselt.experiments.setting import Setting


def with_grids(setting: Setting, values: dict, **changes) -> Setting:
    """`setting` with the defaults of every experiment's options, but for `values`; `changes` are the setting's own."""
    options = []
    for kind in option_types():
        own = {name: value for name, value in values.items() if name in kind.__dataclass_fields__}
        options.append(kind(**own))
    known = {name for kind in option_types() for name in kind.__dataclass_fields__}
    assert values.keys() <= known, values.keys() - known
    return dataclasses.replace(setting, options=tuple(options), **changes)


def grids_of(setting: Setting) -> SimpleNamespace:
    """What the experiments of `setting` vary, by name."""
    return SimpleNamespace(**{f.name: getattr(o, f.name) for o in setting.options for f in dataclasses.fields(o)})
