"""Two runs or more side by side: their verdicts, the values in which they differ, and their numbers, with tests."""

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from sparselt.errors import SettingError
from sparselt.report import rules
from sparselt.report.claims import claims, standing
from sparselt.report.data import Claim, Sections
from sparselt.report.run import Run, read_run
from sparselt.report.statistic import Values
from sparselt.report.table import Table
from sparselt.report.wording import count, listing, p_text, verb

_COMPARED = {"test_error": "mean test error", "barrier": "mean barrier"}
_MOST = 15
_SHORT = {"cannot be seen at this scale": "not seen"}


@dataclass(frozen=True)
class Comparison:
    """What `compare` found. differences: None for more than two runs.

    runs: what differs between the runs as they were asked for. verdicts: of the findings that any run judges.
    differences: of mean errors and barriers, the most significant first. notes: how to read them.
    """

    runs: Table
    verdicts: Table
    differences: Table | None
    notes: tuple[str, ...]

    def markdown(self, title: str = "Runs compared") -> str:
        """A page of it."""
        parts = [f"# {title}", self.runs.markdown(), "## Findings", self.verdicts.markdown()]
        if self.differences is not None:
            parts += ["## Numbers", self.differences.markdown()]
        return "\n\n".join([*parts, *self.notes]) + "\n"


def compare(
    folders: Sequence[str | Path], sections: Sections, varied: Mapping[str, str] = MappingProxyType({})
) -> Comparison:
    """Compares finished runs.

    The means of two runs are tested by Welch's test over replicates, two-sided. Where both runs have the same seed,
    replicate r of both has the same initialization and data order. Then the test is Student's of the paired
    differences, and the means are over the replicates that both runs have.

    Args:
        varied: the experiment that each of its values belongs to, by the value's name. Values of experiments that no
            run has are not compared.

    Raises:
        StoreError: a folder that does not read as a run.
        SettingError: fewer than two runs, the same one twice, or none of the same measurements in all.
    """
    if len(folders) < 2 or len({Path(folder).resolve() for folder in folders}) < len(folders):
        raise SettingError(
            f"runs to compare: {listing([str(f) for f in folders])}; expected two different ones or more"
        )
    runs = [read_run(folder) for folder in folders]
    names = [chr(ord("A") + place) for place in range(len(runs))]
    found = [claims(run.data, sections)[0] for run in runs]
    verdicts, same = _verdicts(names, found)
    notes = [f"{name}: {standing(run.record)}" for name, run in zip(names, runs, strict=True)] + same
    differences = None
    if len(runs) == 2:
        differences, note = _differences(runs[0], runs[1])
        notes.append(note)
    return Comparison(_asked(names, runs, varied), verdicts, differences, tuple(notes))


def _asked(names: Sequence[str], runs: Sequence[Run], varied: Mapping[str, str]) -> Table:
    measured = {row.experiment for run in runs for row in run.rows}
    asked = [
        {"folder": run.folder.name, "seed": str(run.record.get("seed", "–")), "sparselt": _version(run.record)}
        | {
            str(name): str(value)
            for name, value, _ in run.record.get("protocol", [])
            if name not in varied or varied[name] in measured
        }
        for run in runs
    ]
    every = dict.fromkeys(name for values in asked for name in values)
    rows = [(name, *(values.get(name, "–") for values in asked)) for name in every]
    lines = [row for row in rows if len(set(row[1:])) > 1 or row[0] in ("folder", "seed")]
    return Table(("value", *names), lines, text=len(names) + 1)


def _version(record: Mapping) -> str:
    return str((record.get("versions") or {}).get("sparselt", "–"))


def _verdicts(names: Sequence[str], found: Sequence[Sequence[Claim]]) -> tuple[Table, list[str]]:
    """The verdicts side by side, and how far they are the same, in a sentence; none if all runs judge no finding."""
    by_finding = [{(claim.paper, claim.claim): claim for claim in judged} for judged in found]
    lines, counted = [], Counter[str]()
    for finding in dict.fromkeys(key for judged in by_finding for key in judged):
        every = [judged.get(finding) for judged in by_finding]
        verdicts = ["–" if claim is None else _SHORT.get(claim.verdict, claim.verdict) for claim in every]
        numbers = ["–" if claim is None or claim.p is None else p_text(claim.p) for claim in every]
        lines.append((*finding, *(f"{verdict} ({p})" for verdict, p in zip(verdicts, numbers, strict=True))))
        if None not in every:
            kinds = set(verdicts)
            contradicted = {"agrees", "does not agree"} <= kinds
            counted["same" if len(kinds) == 1 else "opposite" if contradicted else "other"] += 1
    same, opposite, other = (counted[kind] for kind in ("same", "opposite", "other"))
    parts = [f"{same} {verb(same, 'has', 'have')} the same verdict in all"] if same else []
    if opposite:
        parts.append(f"{opposite} {verb(opposite, 'agrees in one and does', 'agree in one and do')} not in another")
    if other:
        parts.append(f"{other} can be seen in some only")
    text = [f"Of {count(counted.total(), 'finding')} that all judge, {listing(parts)}."] if parts else []
    return Table(("paper", "finding", *names), lines, text=2 + len(names)), text


def _differences(first: Run, second: Run) -> tuple[Table, str]:
    paired = first.record.get("seed") == second.record.get("seed")
    one, other = (_means(run) for run in (first, second))
    tested, seen, few = [], set(), 0
    for key in [key for key in one if key in other]:
        a, b = one[key].finite, other[key].finite
        if paired:
            a, b = (Values({k: of[k] for k in sorted(a.keys() & b.keys())}) for of in (a, b))
        measured = tuple(a.items()), tuple(b.items())
        if measured in seen:
            continue
        seen.add(measured)  # two experiments may ask for one measurement
        if (p := _p(a, b, paired)) is None:
            few += 1
        else:
            tested.append((p, key, a, b))
    tested.sort(key=lambda item: (item[0], str(item[1])))
    if not tested:
        raise SettingError(
            f"{first.folder.name} and {second.folder.name} share no error or barrier of two replicates or more: give "
            "runs of one setting and the same experiments"
        )
    corrected = rules.adjusted([p for p, *_ in tested])
    lines = []
    for (p, key, a, b), (holm, bh) in list(zip(tested, corrected, strict=True))[:_MOST]:
        difference = f"{100 * (b.mean - a.mean):+.2f}"
        numbers = (f"{a:.2p}", f"{b:.2p}", difference, *(f"{each:.2g}" for each in (p, holm, bh)))
        n = str(len(a)) if len(a) == len(b) else f"{len(a)}, {len(b)}"
        lines.append((_text(*key), n, *numbers))
    table = Table(("what", "n", "A (points)", "B", "B − A", "p", "Holm", "BH"), lines, text=1)
    below = sum(p < rules.SIGNIFICANT for p, *_ in tested)
    kept = [sum(pair[k] < rules.SIGNIFICANT for pair in corrected) for k in (0, 1)]
    how = "Student's test of paired differences, in the replicates of both runs" if paired else "Welch's test"
    note = (
        f"{len(tested):,} mean {verb(len(tested), 'error or barrier was', 'errors and barriers were')} compared, by "
        f"{how}, two-sided; the table has the {len(lines)} of smallest p. {below} {verb(below, 'has', 'have')} p < "
        f"0.05, where chance gives about {0.05 * len(tested):.0f}; corrected for their number, {kept[0]} "
        f"{verb(kept[0], 'keeps', 'keep')} it by Holm and {kept[1]} by Benjamini and Hochberg."
    )
    by_metric = {metric: [b.mean - a.mean for _, key, a, b in tested if key[-1] == metric] for metric in _COMPARED}
    averages = [
        f"{100 * math.fsum(of) / len(of):+.3f} points over {count(len(of), _COMPARED[metric])}"
        for metric, of in by_metric.items()
        if of
    ]
    note += f" On average B − A is {listing(averages)}."
    if few:
        note += f" {count(few, 'further mean')} could not be tested, for lack of replicates or of spread."
    return table, note


def _text(
    experiment: str, variant: str, condition: str, step: int | None, level: int, to: int | None, metric: str
) -> str:
    """What a mean is of, in words."""
    parts = [f"{experiment}, {variant}", condition, "" if step is None else f"rewind {step}"]
    parts += [f"level {level}" if to is None else f"levels {level} to {to}", metric.replace("_", " ")]
    return ", ".join(part for part in parts if part)


def _means(run: Run) -> dict[tuple, Values]:
    values: dict[tuple, Values] = defaultdict(Values)
    for row in run.rows:
        if row.metric in _COMPARED and row.position is None:
            key = row.experiment, row.variant, row.condition, row.rewind_step, row.level, row.to_level, row.metric
            values[key][row.replicate] = row.value
    return values


def _p(a: Values, b: Values, paired: bool) -> float | None:
    """Of the test that two means are equal; None with too few replicates."""
    from scipy import stats

    if paired:
        differences = list((a - b).values())
        return None if len(differences) < 2 else rules.student(differences, "two-sided")[1]
    if min(len(a), len(b)) < 2:
        return None
    one, other = list(a.values()), list(b.values())
    if len(set(one)) == len(set(other)) == 1:
        return 1.0 if one[0] == other[0] else None  # Welch's t is not defined without any spread
    return float(stats.ttest_ind(one, other, equal_var=False).pvalue)
