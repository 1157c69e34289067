"""Runs the example without installing it: everything of your own is handed to `run`.

    python run.py [mini | smoke]

Keep the last block under `if __name__`: worker processes import this file too.
"""

import sys

from own_experiment.criteria import lamp
from own_experiment.networks import small_cnn
from own_experiment.one_shot.experiment import EXPERIMENT
from own_experiment.settings import turned_digits
from own_experiment.sources import TurnedDigits
from sparselt.reproduce import run

if __name__ == "__main__":
    run(
        turned_digits(sys.argv[1] if len(sys.argv) > 1 else "mini"),
        {"one_shot": EXPERIMENT},
        model=small_cnn,
        source=TurnedDigits(quarters=2),
        one_shot_criteria=("magnitude", lamp),
    )
