"""docs/frameworks.md and examples/frameworks: every block and every example runs, and does what the page says of it."""

import copy
import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from sparselt import Mask, MaskedSGD, magnitude_prune

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples" / "frameworks"
BLOCKS = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "frameworks.md").read_text(), flags=re.DOTALL)


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    """The examples can be imported, and what they write goes into a folder of the test."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(EXAMPLES)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def example(name: str, needs: str = ""):
    if needs:
        pytest.importorskip(needs, reason=f"{needs} is not installed")
    return __import__(name)


def equal(first: torch.nn.Module, second: torch.nn.Module) -> bool:
    return all(torch.equal(p, q) for p, q in zip(first.parameters(), second.parameters(), strict=True))


def masked_is_zero(model: torch.nn.Module, mask: Mask) -> bool:
    return all(not model.get_parameter(name)[~layer].any() for name, layer in mask.items())


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.name)
def test_an_example_has_at_most_60_lines_and_stands_on_the_page(path):
    assert len(path.read_text().splitlines()) <= 60
    assert f"../examples/frameworks/{path.name}" in (ROOT / "docs" / "frameworks.md").read_text()


def test_the_blocks_of_the_page_run_one_after_the_other():
    names: dict = {}
    for block in BLOCKS:
        exec(compile(block, "docs/frameworks.md", "exec"), names)
    assert names["compared"].pairs[0].jaccard == 1 and names["compared"].pairs[0].path.barrier == 0
    assert len(BLOCKS) == 9 and names["mask"].density == pytest.approx(0.2, abs=0.01)


def test_the_loop_goes_on_to_the_bit_and_its_average_is_masked():
    loop = example("loop")
    model = loop.network()
    mask = magnitude_prune(model, Mask.ones_like(model), fraction=0.5)
    again = copy.deepcopy(model)
    average = loop.train(model, mask, range(40))
    loop.train(copy.deepcopy(again), mask, range(25), saved=Path("middle.pt"))
    resumed = loop.train(again, mask, range(25, 40), resumed=Path("middle.pt"))
    assert equal(model, again) and equal(average, resumed)
    assert masked_is_zero(model, mask) and masked_is_zero(average.module, mask)


def test_lightning_rewinds_exactly_and_goes_on_to_the_bit():
    tickets = example("lightning_tickets", "lightning")
    module, ticket = tickets.Digits(), tickets.TicketCallback(20, "rewind.ckpt", 0.5)
    tickets.fit(module, [ticket], 60)
    mask = module.mask

    # The same by hand: weights of step 20 under the mask, schedule and data from step 20, no momentum.
    model = tickets.Digits()
    dense = MaskedSGD(model.named_parameters(), lr=0.1, momentum=0.9)
    early = {}
    for step in range(60):
        if step == 20:
            early = copy.deepcopy(model.state_dict())
        by_hand(tickets, model, dense, step)
    assert equal(module, model) and magnitude_prune(model, Mask.ones_like(model), 0.5) == mask
    tickets.fit(module, [ticket], 60, resume="rewind.ckpt")
    model.load_state_dict(early)
    rewound = MaskedSGD(model.named_parameters(), lr=0.1, momentum=0.9, mask=mask)
    for step in range(20, 60):
        by_hand(tickets, model, rewound, step)
    assert equal(module, model) and masked_is_zero(module, mask)

    # A resume that is not given the mask.
    whole, first, second = (tickets.Digits() for _ in range(3))
    whole.mask = first.mask = mask
    tickets.fit(whole, [], 60)
    tickets.fit(first, [Saving("middle.ckpt", 40)], 40)
    tickets.fit(second, [], 60, resume="middle.ckpt")
    assert equal(whole, second) and masked_is_zero(second, mask)


def by_hand(tickets, model, optimizer, step: int) -> None:
    start = 64 * (step % 20)
    optimizer.zero_grad()
    batch = tickets.IMAGES[start : start + 64], tickets.LABELS[start : start + 64]
    model.training_step(batch, step).backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()


class Saving:
    """A Lightning callback that saves a checkpoint at a step."""

    def __new__(cls, path: str, step: int):
        import lightning

        class Callback(lightning.Callback):
            def on_train_batch_end(self, trainer, *_):
                if trainer.global_step == step:
                    trainer.save_checkpoint(path)

        return Callback()


def test_accelerate_goes_on_to_the_bit_under_the_mask():
    loop = example("accelerate_loop", "accelerate")
    whole = loop.train(range(3))
    loop.train(range(2), saved="state")
    resumed = loop.train(range(2, 3), resumed="state")
    assert equal(whole, resumed)
    mask = magnitude_prune(loop.network(), Mask.ones_like(loop.network()), fraction=0.5)
    assert masked_is_zero(whole, mask) and masked_is_zero(resumed, mask)


def test_the_trainer_keeps_the_mask_and_goes_on_to_the_bit():
    pytest.importorskip("accelerate", reason="accelerate is not installed")
    if importlib.util.find_spec("transformers") is None:
        pytest.skip("transformers is not installed")
    script = """
import trainer, torch
whole, mask = trainer.train("output", steps=30)
resumed, _ = trainer.train("output", steps=30, resume="output/checkpoint-20")
assert all(torch.equal(p, q) for p, q in zip(whole.parameters(), resumed.parameters()))
assert all((whole.get_parameter(name) != 0).equal(layer) for name, layer in mask.items())
"""
    # In a process and folder of its own: transformers takes a folder kernels/ for its package of that name.
    environment = {**os.environ, "PYTHONPATH": str(EXAMPLES), "OMP_NUM_THREADS": "1"}
    result = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=240
    )
    assert result.returncode == 0, result.stderr


def test_a_network_of_timm_and_its_average_are_masked():
    model, average, mask = example("timm_model", "timm").train(4)
    assert masked_is_zero(model, mask) and masked_is_zero(average, mask)
    assert mask.density == pytest.approx(0.5, abs=1e-3) and model.training


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="threads are listed under /proc")
@pytest.mark.skipif(not torch.distributed.is_available(), reason="torch is built without torch.distributed")
def test_the_group_of_distributed_data_parallel_ends_its_threads_before_the_process_exits():
    """A thread of gloo that outlives the interpreter aborts the process now and then (SIGABRT)."""
    script = f"""
import pathlib, runpy, sys
sys.path.insert(0, {str(EXAMPLES)!r})
runpy.run_path({str(EXAMPLES / "ddp.py")!r}, run_name="__main__")
print([name for task in pathlib.Path("/proc/self/task").iterdir() if "gloo" in (name := (task / "comm").read_text())])
"""
    place = {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
    result = subprocess.run(
        [sys.executable, "-c", script], env=os.environ | place, capture_output=True, text=True, timeout=240
    )
    assert result.stdout.split("\n")[-2] == "[]", result.stdout + result.stderr


@pytest.mark.slow
@pytest.mark.skipif(not torch.distributed.is_available(), reason="torch is built without torch.distributed")
def test_ranks_of_distributed_data_parallel_stay_equal():
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    result = subprocess.run([*command, str(EXAMPLES / "ddp.py")], capture_output=True, text=True, timeout=240)
    assert result.returncode == 0 and "equal on all ranks: True" in result.stdout, result.stdout + result.stderr
