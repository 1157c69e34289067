"""`python -m sparselt.benchmarks`: the same as `sparselt bench`."""

import sys

from sparselt.benchmarks.command import main

sys.exit(main(prog="python -m sparselt.benchmarks"))
