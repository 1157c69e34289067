"""`sparselt data`: write a data set to betons, or inspect one."""

import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro


def write(given: Sequence[str], prog: str) -> int:
    """Writes the data set of a source, which has its own options. Returns the exit code, 130 when interrupted."""
    from sparselt.cli.parsing import NUMBERS
    from sparselt.data.cli import parse_write, write_command

    asked = parse_write(given, prog, NUMBERS)
    # SIGTERM, sent by batch systems and `timeout`, is handled like Ctrl-C: unfinished files are removed.
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        write_command(asked.source, asked.folder, workers=asked.workers, skip_unreadable=asked.skip_unreadable)
    except KeyboardInterrupt:
        print(f"\ninterrupted; nothing was written to {asked.folder}", file=sys.stderr)
        return 130
    finally:
        signal.signal(signal.SIGTERM, before)
    return 0


@dataclass(frozen=True)
class Info:
    """Verify the betons of a folder, print what they hold and draw some samples."""

    folder: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="FOLDER")]
    """The folder, or a .beton in it."""
    sheet: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """PNG file for the samples; FOLDER/samples.png without it."""
    json: bool = False
    """Print the manifest as JSON, for scripts; no samples are drawn unless --sheet is given."""
    verify: bool = False
    """Compare every sample with the manifest: minutes for ImageNet. Otherwise 64 MiB of each file are compared."""

    def run(self, given: Sequence[str]) -> int:
        """Prints what the folder holds; returns the exit code."""
        from sparselt.data.cli import info_command

        info_command(self.folder, sheet=self.sheet, as_json=self.json, verify=self.verify)
        return 0
