"""`python -m sparselt.reproduce`: the same as `sparselt reproduce`."""

import sys

from sparselt.cli.main import run_command

if __name__ == "__main__":
    sys.exit(run_command("reproduce", sys.argv[1:], "python -m sparselt.reproduce"))
