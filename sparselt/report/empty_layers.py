"""Layers that pruning left without a weight, in whatever experiment: nothing passes through one but its biases."""

from collections import defaultdict
from collections.abc import Iterator

from sparselt.report.section import Data, condition_value
from sparselt.report.wording import listing, ranges


def empty_layers(data: Data) -> Iterator[str]:
    """A sentence for each such layer, by name, with the networks it is empty in; one for all that share these."""
    places: dict[str, dict[tuple, dict[int, set[int]]]] = {}
    for row in data.select(metric="empty_layer"):
        layer = condition_value(row.condition, "layer") or row.condition
        others = " ".join(word for word in row.condition.split() if not word.startswith("layer="))
        network = row.variant if row.experiment == "imp" else f"{row.variant} in {row.experiment}"
        of_layer = places.setdefault(layer, defaultdict(lambda: defaultdict(set)))
        of_layer[network, others, row.rewind_step][row.level].add(row.replicate)
    layers: dict[str, list[str]] = defaultdict(list)
    for layer, networks in places.items():
        texts = [
            network
            + ("" if step is None else f" rewound to step {step:,}")
            + f" at level {ranges(sorted(levels))} ("
            + (f"{others}, " if others else "")
            + f"replicate {ranges(sorted(set().union(*levels.values())))})"
            for (network, others, step), levels in networks.items()
        ]
        layers[listing(texts)].append(layer)
    for texts, names in layers.items():
        noun, it = ("layer", "it") if len(names) == 1 else ("layers", "them")
        yield (
            f"Pruning left no weight in {noun} {listing(names)} of {texts}: nothing passes through {it} "
            f"but biases, nor past {it} except by a shortcut."
        )
