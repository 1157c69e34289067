import dataclasses
from pathlib import Path

import pytest
import torch
from typed_command import SMALL

from sparselt.cli import doctor
from sparselt.cli.main import main
from sparselt.experiments import known_experiments
from sparselt.experiments.lab import Lab
from sparselt.experiments.needs import needs_of
from sparselt.experiments.planning import chosen
from sparselt.experiments.rounds import measured, plan_of
from sparselt.kernels import self_test
from sparselt.reproduce import load_setting
from sparselt.runs.devices import cpu_has_bfloat16
from sparselt.training.memory import step_memory


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("processor\t: 0\nflags\t\t: fpu avx512f avx512_bf16 vaes\n", True),
        ("Features\t: fp asimd i8mm bf16 dgh\n", True),
        ("model name\t: made of bf16\nflags\t\t: fpu avx2 avx512f avx512_bf16x\n", False),
        ("model name\t: something else\n", None),
    ],
)
def test_bfloat16_instructions_are_read_from_the_flags_of_the_cpu(tmp_path, text, expected):
    (tmp_path / "cpuinfo").write_text(text)
    assert cpu_has_bfloat16(tmp_path / "cpuinfo") is expected


def test_a_system_that_does_not_say_is_not_judged(tmp_path):
    assert cpu_has_bfloat16(tmp_path / "missing") is None


def test_a_setting_that_can_run_here_is_fine(capsys, tmp_path):
    assert main(["doctor", "digits_resnet8", "--scale", "smoke", "--out", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "12 of 12 kernels agree on cpu" in printed and "fine: digits_resnet8 at scale smoke" in printed


def test_what_a_setting_lacks_is_named(capsys, tmp_path):
    arguments = ["imagenet_resnet50", "--no-self-test", "--out", str(tmp_path), "--workers", "100000"]
    assert main(["doctor", *arguments]) == 1
    missing = capsys.readouterr().err
    assert "missing: imagenet_resnet50 at scale paper needs its images" in missing and "missing: memory" in missing


def test_a_missing_gpu_is_named(capsys):
    if torch.cuda.is_available():
        pytest.skip("this machine has one")
    assert main(["doctor", "--device", "cuda", "--no-self-test"]) == 1
    assert "missing: a CUDA device" in capsys.readouterr().err


def test_a_kernel_that_disagrees_with_its_reference_is_named(capsys, monkeypatch):
    monkeypatch.setattr(self_test, "threshold", lambda weights, masks, count: 0.0)
    monkeypatch.setattr(self_test, "TESTS", {name: self_test.TESTS[name] for name in ("magnitude", "augment")})
    assert main(["doctor"]) == 1
    printed = capsys.readouterr()
    assert "1 of 2 kernels agree on cpu" in printed.out
    assert "missing: a working magnitude on cpu: AssertionError: the threshold is" in printed.err


@pytest.mark.parametrize(
    "arguments", [["no_such_setting"], ["digits_resnet8", "--scale", "huge"], ["--workers", "two"]]
)
def test_bad_arguments_give_code_2(arguments):
    try:
        code = main(["doctor", *arguments])
    except SystemExit as ended:  # argparse's way
        code = ended.code
    assert code == 2


def test_apt_installs_what_the_set_up_installs():
    packages = doctor.install_lines()["apt"].split("--no-install-recommends ")[1].split()
    script = (Path(__file__).parents[2] / "scripts" / "setup.sh").read_text()
    assert "libopencv-dev" in packages
    assert all(package in script or (package.endswith("-dev") and '"$version-dev"' in script) for package in packages)


def test_the_memory_of_all_ranks_counts_on_one_machine():
    alone = load_setting("mnist_lenet")
    two = alone.changed(ranks=2)
    memory = step_memory(alone.recipe, 10, 1, 28)
    assert needs_of(alone, [], 1).training == memory.of(alone.batch_size)
    # Each rank has the network, and its share of the batch.
    shared = memory.batch + memory.image * alone.batch_size
    assert needs_of(two, [], 1).training == 2 * (memory.fixed - memory.batch) + shared


def test_a_gpu_that_is_too_small_is_named_with_the_number_that_fits(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(doctor, "_has_gpu", lambda: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (24 * 10**9, 80 * 10**9))
    arguments = ["imagenet_resnet50", "--no-self-test", "--out", str(tmp_path), "--device", "cuda"]
    assert main(["doctor", *arguments]) == 1
    printed = capsys.readouterr()
    assert "about 46.4 GB needed, 24.0 GB free" in printed.out
    assert "missing: GPU memory: micro_batches is 2" in printed.err and "give --set micro_batches=8" in printed.err


def test_a_run_writes_what_is_reckoned(finished):
    folder, _ = finished
    values = SMALL[SMALL.index("--set") + 1 : SMALL.index("--experiments")]
    setting = dataclasses.replace(load_setting("digits_resnet8", "smoke"), replicates=2).with_values(values).checked()
    experiments, _ = chosen(("imp", "connectivity"), known_experiments(), setting)
    plan = plan_of(measured(experiments, Lab(setting)))
    files = (folder / "runs" / "store").rglob("*")
    # Betons have holes, so that blocks count.
    written = sum(path.stat().st_blocks * 512 for path in files if path.suffix in (".safetensors", ".beton"))
    one, two = (needs_of(setting, plan.stages, workers).disk for workers in (1, 2))
    # Without the saves of the training under way, which are gone.
    assert 0.7 * written < one - (two - one) < 1.3 * written
