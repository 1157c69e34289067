"""`sparselt bench`: the suites of `sparselt.benchmarks`, and the campaign."""

from collections.abc import Sequence


def bench(arguments: Sequence[str]) -> int:
    """Runs the command; returns the exit code."""
    if arguments[:1] == ["campaign"]:
        from sparselt.benchmarks.campaign import main as campaign

        return campaign(arguments[1:])
    from sparselt.benchmarks.command import main

    return main(arguments)
