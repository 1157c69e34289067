"""What `rewind_to_init` varies."""

from dataclasses import dataclass

from sparselt.experiments.options import Options
from sparselt.experiments.values import value


@dataclass(frozen=True, kw_only=True)
class RewindToInitOptions(Options):
    """What `rewind_to_init` varies. Without batch sizes and warm-ups it does not apply."""

    init_lr: float = value(0.0, least=0, help="learning rate of init_batch_sizes")
    init_batch_sizes: tuple[int, ...] = value((), least=0, help="batch sizes, at equal epochs")
    init_copies: bool = value(
        False, omit_default=True, help="train a second copy of each dense network, whose distance is its instability"
    )
    init_warmup_steps: tuple[int, ...] = value(
        (), least=0, step=True, help="warm-ups, at the setting's own batch size and learning rate"
    )
    init_warmup_levels: int = value(
        0,
        least=0,
        help="rounds under a warm-up, each removing the setting's own share; 0: init_levels of init_fraction",
    )
    init_levels: int = value(0, least=0, help="rounds of pruning")
    init_fraction: float = value(
        0.0, least=0, help="share of the live weights that each round removes; 0: the setting's own"
    )
    repulsion_strengths: tuple[float, ...] = value(
        (), help="strength of the loss that repels (above 0) from earlier solutions, or attracts (below 0)"
    )
    repulsion_levels: int = value(0, least=0, help="levels trained under that loss")
