"""The command of `python -m sparselt.reproduce`, typed in a folder of its own."""

import os
import subprocess
import sys
from pathlib import Path

SMALL = (
    *("digits_resnet8", "--scale", "smoke", "--replicates", "2", "--workers", "1"),
    *("--set", "steps=30", "milestones=20", "rewind_steps=0,1ep", "variants=random,reinit", "instability_levels="),
    *("--experiments", "imp", "connectivity"),
)


def reproduce(*arguments: object, cwd: Path, check: bool = False, **environment: str) -> subprocess.CompletedProcess:
    """Runs the command as a person would, in a folder of its own."""
    return subprocess.run(
        [sys.executable, "-m", "sparselt.reproduce", *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, "COLUMNS": "100", **environment},
        capture_output=True,
        text=True,
        timeout=240,
        check=check,
    )
