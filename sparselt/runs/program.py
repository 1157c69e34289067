"""The script that the user started."""

import sys
from pathlib import Path


def own_script() -> str | None:
    """File name of the Python script that the user started; None for `python -m …`, a console script or a shell."""
    started = sys.modules["__main__"]
    file = getattr(started, "__file__", None)
    if file is None or getattr(started, "__spec__", None) is not None or not file.endswith(".py"):
        return None
    return Path(file).name
