"""`python -m sparselt.benchmarks`: the same as `sparselt bench`."""

import sys

from sparselt.benchmarks import campaign, command

if sys.argv[1:2] == ["campaign"]:
    sys.exit(campaign.main(sys.argv[2:], "python -m sparselt.benchmarks campaign"))
sys.exit(command.main(prog="python -m sparselt.benchmarks"))
