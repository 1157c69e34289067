"""`MODELS`: every function under `@model` in a module of this folder, by its name.

A module here imports torch inside its functions only: commands list and check networks without loading torch.
"""

import importlib
import pkgutil
from collections.abc import Mapping

from sparselt.models.registry import Build, decorated

for _module in pkgutil.iter_modules(__path__, f"{__name__}."):
    importlib.import_module(_module.name)

MODELS: Mapping[str, Build] = {build.__name__: build for build in decorated(__name__)}
