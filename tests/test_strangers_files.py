"""Files that somebody or something has changed: each is read as it was, or refused by a SparseltError.

SPARSELT_MUTATIONS is the number of changed files of each kind; 1,300 make more than 10,000 in all.
"""

import dataclasses
import json
import os
import random
import shutil
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch

import sparselt.runs
from sparselt import Mask
from sparselt.cli.main import main
from sparselt.data import Digits, open_dataset, write_dataset
from sparselt.data.beton import Beton
from sparselt.data.resident import ResidentData, write_resident
from sparselt.errors import SparseltError, StoreError
from sparselt.report.results import read_results, write_results
from sparselt.runs import claims
from sparselt.runs.claims import Claims
from sparselt.runs.inventory import Inventory
from sparselt.runs.networks import NetworkRow, write_networks
from sparselt.runs.store import Store
from sparselt.stopping import Signals
from sparselt.training.checkpoint import load_tensors, save_tensors
from sparselt.training.progress import Progress, Saved

COUNT = int(os.environ.get("SPARSELT_MUTATIONS", "60"))
SLACK = 2**20  # bytes, for what does not grow with a file
LONGEST = 10.0  # seconds
TOKENS = (b"0", b"-1", b"99999999999999999999", b"1e999", b"null", b"[]", b"{}", b'"../../../etc/passwd"', b"[" * 3000)


def mutated(content: bytes, rng: random.Random) -> bytes:
    """The content with one to three changes of a few kinds."""
    changed = bytearray(content)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        # Half of the changes near the start, where headers are.
        end = len(changed) if rng.random() < 0.5 else min(len(changed), 512)
        at = rng.randrange(end) if end else 0
        kind = rng.randrange(7)
        if kind == 0 and changed:
            changed[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            del changed[at:]
        elif kind == 2:
            changed[at : at + rng.randrange(1, 16)] = rng.randbytes(rng.randrange(1, 16))
        elif kind == 3:
            changed[at:at] = rng.randbytes(rng.randrange(1, 64))
        elif kind == 4:
            del changed[at : at + rng.randrange(1, 64)]
        elif kind == 5:
            changed[at : at + 8] = rng.choice((b"\xff" * 8, b"\0" * 8, b"\x7f" + b"\xff" * 7))
        else:
            changed[at : at + rng.randrange(4)] = rng.choice(TOKENS)
    return bytes(changed)


def same(first: object, second: object) -> bool:
    if isinstance(first, dict) and isinstance(second, dict):
        return first.keys() == second.keys() and all(same(first[name], second[name]) for name in first)
    if isinstance(first, torch.Tensor):
        return torch.equal(first, second)
    if isinstance(first, np.ndarray):
        return np.array_equal(first, second)
    return first == second


@dataclasses.dataclass
class Case:
    """A kind of file. read: reads it anew. exact: any change must be noticed. spoils: reading may remove files."""

    path: Path
    read: object
    exact: bool = True
    spoils: Path | None = None


def mask_file(folder: Path) -> Case:
    layers = {"a.weight": torch.rand(7, 3, 3, 3) < 0.4, "b.weight": torch.rand(10, 33) < 0.5}
    Mask(layers).save(folder / "mask.safetensors")
    return Case(folder / "mask.safetensors", lambda: Mask.load(folder / "mask.safetensors"))


def checkpoint(folder: Path) -> Case:
    path = folder / "final.safetensors"
    save_tensors({"a": torch.randn(20, 30), "b": torch.arange(5)}, path)
    # A stage's files have their checksums in stage.json.
    return Case(path, lambda: load_tensors(path), exact=False)


def progress(folder: Path) -> Case:
    signals = Signals()
    signals.asked = 1
    place = Progress(folder, 1e9, Signals())
    place._signals.asked = 1
    place.keep(7, lambda: Saved(7, {"w": torch.randn(30)}, {"w:momentum": torch.randn(30)}, torch.randn(4)))
    (path,) = folder.iterdir()

    def read():
        saved = Progress(folder, 1.0, Signals()).restore()
        if saved is None:
            raise StoreError("set aside")
        return {"step": saved.step, "model": dict(saved.model), "losses": saved.losses}

    return Case(path, read, spoils=folder)


def stage_file(folder: Path, bench, name: str) -> Case:
    lab = bench.lab()
    stage = lab.mask(0, 0, 1).stage
    shutil.copytree(bench.store.root, folder / "store")
    store = Store(folder / "store")
    file = next(iter(stage.inputs.values()))
    path = store.folder(file.stage) / name

    def read():
        if not Store(folder / "store").has(file.stage):
            raise StoreError("made anew")
        return load_tensors(Store(folder / "store").verify(file.stage.file("final.safetensors")))

    return Case(path, read, spoils=store.folder(file.stage))


def results(folder: Path) -> Case:
    row = {"setting": "s", "scale": "smoke", "experiment": "imp", "variant": "imp", "replicate": 0, "rewind_step": 0}
    rows = [{**row, "level": k, "density": 0.8**k, "metric": "test_error", "value": 0.1 * k} for k in range(6)]
    write_results(folder, rows, {"setting": "s"})
    return Case(folder / "results.csv", lambda: read_results(folder), exact=False)


def networks(folder: Path) -> Case:
    (folder / "record.json").write_text(json.dumps({"setting": "s"}))
    rows = [NetworkRow("imp", "imp", "", 0, 0, k, f"../store/train/{k}/final.safetensors", "") for k in range(6)]
    write_networks(rows, folder)

    def read():
        run = sparselt.runs.open(folder)
        for level in range(6):
            with pytest.raises(SparseltError):
                run.weights(0, 0, level)  # there is no store
        return run.networks

    return Case(folder / "networks.csv", read, exact=False)


def plans(folder: Path) -> Case:
    place = folder / "store" / "plans"
    place.mkdir(parents=True)
    content = {"command": "c", "state": "done", "stages": {f"train/{k}": "label" for k in range(5)}}
    (place / "run.json").write_text(json.dumps(content))

    def read():
        inventory = Inventory(folder)
        inventory.unneeded()
        return [dataclasses.replace(run, changed="") for run in inventory.runs()]

    return Case(place / "run.json", read, exact=False)


def owner(folder: Path) -> Case:
    (folder / "store").mkdir()
    claim = Claims(folder / "store" / "unfinished").take("train-0")
    claims._heart.remove(claim._owner)
    (path,) = (folder / "store" / "unfinished" / "train-0").glob("owner-*")

    def read():
        Claims(folder / "store" / "unfinished", 1000).taken("train-0")
        return [work.stage for work in Inventory(folder).at_work()]

    return Case(path, read, exact=False, spoils=folder)


def data_set(folder: Path, name: str) -> Case:
    write_dataset(Digits(), folder / "betons")

    def read():
        opened = open_dataset(folder / "betons")
        beton = Beton(opened.path("test"))
        return {"labels": beton.labels, "image": beton.image(3)}

    return Case(folder / "betons" / name, read)


def resident(folder: Path) -> Case:
    write_dataset(Digits(), folder / "betons")
    write_resident(open_dataset(folder / "betons"), folder / "resident")

    def read():
        return ResidentData.open(folder / "resident").labels("test").clone()

    return Case(folder / "resident" / "test.safetensors", read, exact=False)


CASES = {
    "mask": lambda folder, bench: mask_file(folder),
    "checkpoint": lambda folder, bench: checkpoint(folder),
    "progress": lambda folder, bench: progress(folder),
    "stage.json": lambda folder, bench: stage_file(folder, bench, "stage.json"),
    "stage's weights": lambda folder, bench: stage_file(folder, bench, "final.safetensors"),
    "results": lambda folder, bench: results(folder),
    "networks": lambda folder, bench: networks(folder),
    "plan": lambda folder, bench: plans(folder),
    "owner": lambda folder, bench: owner(folder),
    "manifest": lambda folder, bench: data_set(folder, "manifest.json"),
    "beton": lambda folder, bench: data_set(folder, "test.beton"),
    "resident": lambda folder, bench: resident(folder),
}


@pytest.mark.parametrize("kind", CASES)
def test_a_changed_file_is_read_as_it_was_or_refused(kind, bench, tmp_path):
    if kind.startswith("stage"):
        bench.run(bench.lab().mask(0, 0, 1).stage)
    case = CASES[kind](tmp_path, bench)
    rng = random.Random(kind)
    content, expected = case.path.read_bytes(), case.read()
    kept = tmp_path.parent / f"{tmp_path.name}-kept"
    if case.spoils is not None:
        shutil.copytree(case.spoils, kept)
    size = sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file())
    refused = 0
    for _ in range(COUNT):
        changed = mutated(content, rng)
        if case.spoils is not None:
            shutil.rmtree(case.spoils)
            shutil.copytree(kept, case.spoils)
        case.path.write_bytes(changed)
        began = time.monotonic()
        tracemalloc.start()
        try:
            found = case.read()
        except SparseltError:
            refused += 1
        else:
            assert not case.exact or changed == content or same(found, expected), changed[:2000]
        finally:
            _, peak = tracemalloc.get_traced_memory()
            tracemalloc.stop()
        assert time.monotonic() - began < LONGEST
        assert peak < 2 * max(size, len(changed)) + SLACK, peak
    assert refused > COUNT / 10 or kind in ("owner", "plan")


def test_a_name_in_a_file_leads_nowhere_else(bench, tmp_path):
    """Names of files in stage.json and networks.csv that lie outside of their folder."""
    outside = tmp_path / "outside"
    outside.write_text("secret")
    lab = bench.lab()
    bench.run(lab.dense(0))
    shutil.copytree(bench.store.root, tmp_path / "store")
    store = Store(tmp_path / "store")
    path = store.folder(lab.dense(0)) / "stage.json"
    record = json.loads(path.read_text())
    record["files"]["../../../outside"] = {"bytes": 6, "sha256": "0"}
    path.write_text(json.dumps(record))
    assert store.record(lab.dense(0)) == {} and not store.has(lab.dense(0))
    run = tmp_path / "run"
    run.mkdir()
    (run / "record.json").write_text(json.dumps({"setting": "s"}))
    write_networks([NetworkRow("imp", "imp", "", 0, 0, 1, "../../outside", "")], run)
    with pytest.raises(StoreError, match="names a file elsewhere"):
        sparselt.runs.open(run).weights(0, 0, 1)
    assert main(["runs", "show", str(run)]) == 2
    (store.root / "train" / ("0" * 20)).symlink_to(tmp_path)
    (store.root / "kind").symlink_to(tmp_path)
    stages = list(Inventory(tmp_path).stages())
    assert store.folder(lab.dense(0)) in stages
    assert not any(path.is_symlink() or path.parent.is_symlink() for path in stages)
