"""Claims: who works on what, without locks and without clocks that agree."""

import json
import multiprocessing
import os
import subprocess
import sys
import time

import pytest

from sparselt.errors import SettingError
from sparselt.runs import claims
from sparselt.runs.claims import Claims, holder

NAME = "train-0123456789"


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "unfinished"


def elsewhere(folder, name=NAME, machine="another"):
    """A claim whose holder this machine cannot see; it shows no more life."""
    claim = Claims(folder, 1000).take(name)
    claims._heart.remove(claim._owner)
    (owner,) = (folder / name).glob("owner-*")
    owner.write_text(json.dumps({**json.loads(owner.read_text()), "machine": machine}))
    return claim, owner


def test_a_claim_is_held_by_one_and_free_again_when_it_ends(folder):
    claim = Claims(folder).take(NAME)
    assert Claims(folder).taken(NAME) and Claims(folder).take(NAME) is None
    assert holder(folder / NAME)["process"] == os.getpid()
    (claim.folder / "a").write_text("made")
    claim.leave(keep=True)
    assert not Claims(folder).taken(NAME) and holder(folder / NAME) == {}
    again = Claims(folder).take(NAME)
    assert (again.folder / "a").read_text() == "made"
    again.leave(keep=False)
    assert list(folder.iterdir()) == []


def test_a_process_that_ended_on_this_machine_has_lost_its_claim_at_once(folder):
    code = (
        "import os, sys; from pathlib import Path; from sparselt.runs.claims import Claims\n"
        f"claim = Claims(Path({str(folder)!r})).take({NAME!r}); (claim.folder / 'a').write_text('half'); os._exit(9)"
    )
    subprocess.run([sys.executable, "-c", code])
    assert list((folder / NAME).glob("owner-*")) and holder(folder / NAME) == {}
    assert not Claims(folder).taken(NAME)
    claim = Claims(folder).take(NAME)
    assert (claim.folder / "a").exists()


def test_a_number_that_another_process_has_now_is_not_the_holder(folder):
    claim, owner = elsewhere(folder, machine=claims._machine())
    assert Claims(folder).taken(NAME)
    owner.write_text(json.dumps({**json.loads(owner.read_text()), "began": "1"}))
    assert not Claims(folder).taken(NAME)
    assert claim.lost


def test_without_a_sign_of_life_a_claim_ends_after_a_while_whatever_the_clocks_say(folder):
    claim, owner = elsewhere(folder)
    looking = Claims(folder, 0.3)
    # The holder's clock is an hour behind, then an hour ahead: each touch is a sign of life.
    for hours in (-1, 1, -1):
        os.utime(owner, (time.time() + 3600 * hours,) * 2)
        assert looking.taken(NAME)
        time.sleep(0.2)
        assert looking.taken(NAME)
    time.sleep(0.2)
    assert not looking.taken(NAME) and claim.lost
    with pytest.raises(FileNotFoundError):
        (claim.folder / "late").write_text("what the former holder still writes")
    new = looking.take(NAME)
    claim.leave(keep=False)
    assert not new.lost, "a former holder that ends takes nothing from the new one"
    assert looking.taken(NAME)


def test_a_holder_shows_that_it_is_alive(folder):
    claim = Claims(folder, 0.6).take(NAME)
    looking = Claims(folder, 0.6)
    for _ in range(10):
        assert looking.taken(NAME)
        time.sleep(0.1)
    claim.leave(keep=False)


@pytest.mark.parametrize("moved", [True, False])
def test_a_holder_killed_when_its_work_was_done_stands_in_nobodys_way(folder, moved):
    claim, owner = elsewhere(folder)
    os.rename(claim.folder, folder.parent / "done")
    if not moved:
        owner.unlink()
    assert not Claims(folder).taken(NAME)
    new = Claims(folder).take(NAME)
    assert [path.name[:5] for path in sorted((folder / NAME).iterdir())] == ["owner", "work-"]
    new.leave(keep=False)


def test_sweeping_leaves_what_is_alive_and_what_is_of_use(folder):
    alive = Claims(folder).take("mask-1")
    for name in ("train-1", "train-2"):
        Claims(folder).take(name).leave(keep=True)
    lost, _ = elsewhere(folder, "mask-2")
    sweeping = Claims(folder, 0.2)
    sweeping.sweep(lambda name, work: name == "train-1")
    assert sorted(path.name for path in folder.iterdir()) == ["mask-1", "mask-2", "train-1"]
    time.sleep(0.3)
    os.utime(next(alive.folder.parent.glob("owner-*")))
    sweeping.sweep(lambda name, work: name == "train-1")
    assert sorted(path.name for path in folder.iterdir()) == ["mask-1", "train-1"] and lost.lost


def test_what_is_no_claim_is_swept_after_a_while(folder):
    (folder / "train-0123-old" / "inside").mkdir(parents=True)
    (folder / "file").write_text("")
    (folder / ".new-1").mkdir()
    sweeping = Claims(folder, 0.2)
    sweeping.sweep(lambda *_: False)
    assert len(list(folder.iterdir())) == 3
    time.sleep(0.3)
    sweeping.sweep(lambda *_: False)
    assert not list(folder.iterdir())


def test_no_patience_is_refused(folder):
    with pytest.raises(SettingError, match="patience is 0 s"):
        Claims(folder, 0)


def _contend(folder, rounds, seed, won):
    import random

    rng, looking = random.Random(seed), Claims(folder, 0.5)
    while not all((folder.parent / f"done-{k}").exists() for k in range(rounds)):
        k = rng.randrange(rounds)
        if (folder.parent / f"done-{k}").exists():
            continue
        claim = looking.take(f"mask-{k}")
        if claim is None:
            continue
        if not (folder.parent / f"done-{k}").exists():
            inside = claim.folder / "inside"
            try:
                descriptor = os.open(inside, os.O_CREAT | os.O_EXCL)
                os.close(descriptor)
                time.sleep(rng.uniform(0, 0.003))
                inside.unlink()
                os.rename(claim.folder, folder.parent / f"done-{k}")
                won.put(k)
            except OSError as error:
                won.put(repr(error))
        claim.leave(keep=rng.random() < 0.5)


def test_of_many_processes_one_has_each_claim(folder):
    context = multiprocessing.get_context("fork")
    won = context.Queue()
    processes = [context.Process(target=_contend, args=(folder, 40, seed, won)) for seed in range(6)]
    for process in processes:
        process.start()
    found = [won.get(timeout=60) for _ in range(40)]
    for process in processes:
        process.join(30)
        assert process.exitcode == 0
    assert sorted(map(str, found)) == sorted(map(str, range(40)))
    assert won.empty()
