"""`python -m sparselt.benchmarks`: the same as `sparselt bench`."""

import sys

from sparselt.cli.main import run_command

if __name__ == "__main__":
    name = "bench campaign" if sys.argv[1:2] == ["campaign"] else "bench"
    prog = "python -m sparselt.benchmarks" + name.removeprefix("bench")
    sys.exit(run_command(name, sys.argv[len(name.split()) :], prog))
