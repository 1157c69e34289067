"""A run whose output nobody reads any more."""

import os
import subprocess
import sys

WRITE = """
import sys

from sparselt.cli.console import LastingConsole

console = LastingConsole("nobody reads on")
for _ in range(3):
    console.print("a line")
print("done", file=sys.stderr)
"""


def test_a_console_whose_reader_has_ended_says_so_once_and_goes_on():
    reader, writer = os.pipe()
    os.close(reader)
    ended = subprocess.run([sys.executable, "-c", WRITE], stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert ended.returncode == 0
    assert ended.stderr.splitlines() == ["nobody reads on", "done"]
