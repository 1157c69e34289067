"""`python -m sparselt.reproduce`: the same as `sparselt reproduce`."""

import sys

from sparselt.cli.reproduce import main

if __name__ == "__main__":
    sys.exit(main())
