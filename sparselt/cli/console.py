"""A console for work that goes on when whoever reads its output (`| head`, `tee`, a pager) has ended."""

import os
import sys

from rich.console import Console


class LastingConsole(Console):
    """Throws away what it would write once nobody reads it any more.

    Args:
        said: what to say then on standard error; empty: nothing.
        stderr: write to standard error.
    """

    def __init__(self, said: str = "", stderr: bool = False):
        super().__init__(stderr=stderr)
        self._said = said

    def on_broken_pipe(self) -> None:
        """Called by rich when a write has failed because the pipe is closed."""
        self.quiet = True
        os.dup2(os.open(os.devnull, os.O_WRONLY), self.file.fileno())
        if self._said:
            print(self._said, file=sys.stderr)
