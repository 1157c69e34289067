"""A console that outlives the reader of its output (`| head`, `tee`, a pager)."""

import os
import sys

from rich.console import Console


class LastingConsole(Console):
    """Writes as rich's console does. When its pipe is closed, it drops further output instead of ending the program.

    Args:
        said: a sentence for standard error when the pipe is closed; empty: none.
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
