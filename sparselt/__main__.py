"""`python -m sparselt`: the same as the console script `sparselt`."""

import sys

from sparselt.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
