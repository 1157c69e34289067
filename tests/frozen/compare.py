"""Holds finished runs against what version 0.1.0 (d0a51c7) made of the same commands.

    python tests/frozen/compare.py runs/digits_resnet8-mini-f879c711 ...
    python tests/frozen/compare.py --freeze runs/...     # writes results.json anew, with the version to hold against

results.csv has to be equal to the byte. So has record.json, but for versions, command and machine, and for the changes
listed in CHANGES. The key of a run is setting, scale and experiments.

Version 0.1.0 computed masked weights, too: on the digits that is `--set sparse_up_to=0` now, and its experiments are
those named in results.json:

    python -m sparselt.reproduce digits_resnet8 --scale smoke --set sparse_up_to=0 \\
        --experiments adaptive connectivity flatness imp landscape rewind_to_init siblings stability

Bits hold on one kind of CPU. The frozen runs were made on an AMD EPYC with AVX-512; on an Intel Xeon with AVX-512 the
libraries round otherwise, and results.csv differs.
"""

import hashlib
import json
import sys
from pathlib import Path

FROZEN = Path(__file__).with_name("results.json")
PER_CALL = ("versions", "command", "device")
SINCE = ("rules", "explored_seeds", "given")
VALUES_SINCE = ("perturbation_steps", "retraining_chains", "retraining_levels", "retraining_replicates")
CHANGES = {
    "protocol": "options of an experiment stand in the order of the experiments, sources say more, and there are "
    "values that 0.1.0 did not have: compared as a set of names and values, without these",
    "results.csv": "reinitializations under the repelling loss wear the masks of those without: digits_resnet8 smoke "
    "was frozen anew, digits_resnet8 mini with all experiments differs in these rows until it is",
    "rules": "the record names the rules that judge the run: left out, 0.1.0 named none",
    "explored_seeds": "the record names the seeds that were explored: left out, 0.1.0 named none",
    "given": "the record names the values that the user gave: left out, 0.1.0 named none",
}
"""What was changed on purpose, and how it is compared instead."""


def frozen(folder: Path) -> tuple[str, dict]:
    """What is kept of a run."""
    record = json.loads((folder / "record.json").read_text())
    key = " ".join([record["setting"], record["scale"], *sorted(record["experiments"])])
    kept = {name: value for name, value in record.items() if name not in PER_CALL + SINCE}
    kept["protocol"] = sorted(json.dumps(line[:2]) for line in record["protocol"] if line[0] not in VALUES_SINCE)
    data = (folder / "results.csv").read_bytes()
    return key, {"results_csv": hashlib.sha256(data).hexdigest(), "record": kept}


def main(arguments: list[str]) -> int:
    """Returns the exit code: 1 if a run differs or was never frozen."""
    folders = [Path(argument) for argument in arguments if argument != "--freeze"]
    found = dict(map(frozen, folders))
    if "--freeze" in arguments:
        FROZEN.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n")
        return 0
    before, differ = json.loads(FROZEN.read_text()), 0
    for (key, now), folder in zip(found.items(), folders, strict=True):
        then = before.get(key)
        if then is None:
            print(f"{folder}: never frozen ({key})")
            differ += 1
            continue
        differences = [
            name for name in now["record"] | then["record"] if now["record"].get(name) != then["record"].get(name)
        ]
        if now["results_csv"] != then["results_csv"]:
            differences.insert(0, "results.csv")
        print(f"{folder}: {'differs in ' + ', '.join(differences) if differences else 'equal'}")
        differ += bool(differences)
    return min(differ, 1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
