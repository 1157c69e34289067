"""`python -m sparselt.reproduce`."""

import sys

from sparselt.reproduce.cli import main

if __name__ == "__main__":
    sys.exit(main())
