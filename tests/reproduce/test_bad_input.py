"""One clear sentence, exit code 2, nothing written."""

from importlib.util import find_spec

import pytest

from sparselt.cli.main import main as sparselt_command
from sparselt.cli.reproduce import main
from sparselt.data import Digits, SyntheticImages, write_dataset
from sparselt.errors import SettingError
from sparselt.experiments.setting import Setting
from sparselt.experiments.values import _OTHER_NAMES
from sparselt.reproduce import SETTINGS, load_setting

DIGITS = "digits_resnet8"


@pytest.fixture(autouse=True)
def empty_folder(tmp_path, monkeypatch):
    folder = tmp_path / "cwd"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([DIGITS, "--gpus", "4", "--images-per-second", "9"], ["give --dry-run, too"]),
        ([DIGITS, "--dry-run", "--gpus", "4"], ["give both --gpus and --images-per-second"]),
        ([DIGITS, "--dry-run", "--gpus", "0", "--images-per-second", "9"], ["--gpus is 0; expected 1 to"]),
        ([DIGITS, "--dry-run", "--gpus", "4", "--images-per-second", "nan"], ["--images-per-second is nan"]),
        ([DIGITS, "--set", "compile=true", "techniques=mild"], ["compile is true", "give compile=false"]),
        ([DIGITS, "--ranks", "3"], ["ranks is 3, which does not divide the batch of 64 images"]),
        ([DIGITS, "--ranks", "2", "--cohort", "4"], ["cohort is 4, but a training of 2 ranks runs alone"]),
        ([DIGITS, "--cohort", "4"], ["trainings on live weights alone", "set sparse_up_to=0"]),
        (["fashion_mnist_lenet", "--set", "fused_norm=true"], ["Sequential has no batch norm", "fused_norm=false"]),
        (
            [DIGITS, "--set", "fused_norm=true", "sync_batch_norm=true"],
            ["fused_norm and sync_batch_norm are both true"],
        ),
        (["fashion_mnist_lenet", "--set", "winograd=true"], ["has no 3×3 convolution", "give winograd=false"]),
        ([DIGITS, "--set", "sparse_up_to=1.5"], ["sparse_up_to is 1.5; expected 1 at most"]),
        ([DIGITS, "--set", "sparse_up_to=1", "model=vgg19"], ["vgg19 has no step", "as lenet_300_100, resnet18,"]),
        ([DIGITS, "--set", "sparse_up_to=1", "compile=true"], ["compile is true; leave it out"]),
        ([DIGITS, "--set", "sparse_up_to=1", "micro_batches=2"], ["micro_batches is 2; leave it out"]),
        ([DIGITS, "--set", "sparse_up_to=1", "--ranks", "2"], ["ranks is 2; leave it out"]),
        ([DIGITS, "--ray-address", "auto"], ["--ray-address", "give --executor ray, too"]),
        ([DIGITS, "--executor", "ray", "--gpu-share", "2"], ["--gpu-share is 2; expected more than 0"]),
        pytest.param(
            [DIGITS, "--executor", "ray"],
            ["Ray is not installed here; pip install"],
            marks=pytest.mark.skipif(find_spec("ray") is not None, reason="Ray is installed"),
        ),
        ([DIGITS, "--executor", "ray", "--ray-address", "head"], ["--ray-address is 'head'; expected HOST:PORT"]),
        ([DIGITS, "--executor", "ray", "--ray-address", "ray://a:1"], ["the address of the cluster itself"]),
        (
            [DIGITS, "--executor", "ray", "--ray-address", "127.0.0.1:1"],
            ["does not answer", "ray start --head"] if find_spec("ray") else ["Ray is not installed here; pip install"],
        ),
        ([DIGITS, "--patience", "0"], ["patience is 0 s; expected more than 0"]),
        ([DIGITS, "--set", "optimizer=adm"], ["no optimizer 'adm'", "adam, adamw"]),
        ([DIGITS, "--set", "optimizer=adam", "momentum=0.5"], ["momentum is 0.5, which adam does not have", "leave"]),
        ([DIGITS, "--set", "optimizer=adam", "nesterov=true"], ["nesterov is True, which adam", "nesterov=false"]),
        ([DIGITS, "--set", "alpha=0.9"], ["alpha is 0.9, which sgd does not have", "it has momentum"]),
        ([DIGITS, "--set", "optimizer=adam", "lr=0.001", "betas=0.9"], ["betas has 1 values; expected 2"]),
        ([DIGITS, "--set", "optimizer=adam"], ["optimizer is adam", "was chosen for sgd", "lr=0.001"]),
        ([DIGITS, "--set", "optimizer=adamw", "lr=0.001", "betas=0.9,1"], ["betas holds 1.0; expected less than 1"]),
        (["digits_resnet9"], ["unknown setting 'digits_resnet9'", "did you mean digits_resnet8"]),
        ([], ["no setting given", "--list"]),
        ([DIGITS, "--scale", "huge"], ["unknown scale 'huge'", "paper, mini, smoke"]),
        ([DIGITS, "--experiments", "conectivity"], ["unknown experiment 'conectivity'", "connectivity"]),
        ([DIGITS, "--set", "rewind_steps=0,600"], ["rewind step 600", "end of training (600 steps)"]),
        ([DIGITS, "--set", "rewind_steps=30ep"], ["rewind step 600"]),
        ([DIGITS, "--set", "rewind_steps=60,60"], ["rewind_steps [60, 60] names a value twice"]),
        ([DIGITS, "--set", "rewind_steps="], ["rewind_steps is empty"]),
        ([DIGITS, "--set", "levels=0"], ["levels is 0", "at least 1"]),
        ([DIGITS, "--set", "fraction=1.0"], ["fraction is 1.0", "between 0 and 1"]),
        ([DIGITS, "--set", "fraction=0"], ["between 0 and 1"]),
        ([DIGITS, "--set", "fraction=nan"], ["between 0 and 1"]),
        ([DIGITS, "--set", "fraction"], ["name=value"]),
        ([DIGITS, "--set", "levels", "3"], ["'levels' is not understood", "several with spaces between"]),
        ([DIGITS, "--set", "levels=3,model=resnet20"], ["--set 'levels=3,model=resnet20' is not understood"]),
        ([DIGITS, "--set", "model=resnet20 levels=3"], ["'model=resnet20 levels=3' is not understood"]),
        ([DIGITS, "--set", "=3"], ["'=3' is not understood"]),
        ([DIGITS, "--set", f"model={DIGITS}"], [f"{DIGITS} is a setting, which comes first", "such as model=resnet20"]),
        ([DIGITS, "--set", "learning_rate=0.1"], ["no value 'learning_rate'; did you mean lr?"]),
        ([DIGITS, "--set", "epochs=3"], ["did you mean steps, in optimizer steps (30 epochs: --set steps=30ep)?"]),
        ([DIGITS, "--set", "level=3"], ["no value 'level'", "levels"]),
        ([DIGITS, "--set", "levels=many"], ["levels=many", "a whole number"]),
        ([DIGITS, "--set", "lr=-1"], ["lr is -1.0", "positive"]),
        ([DIGITS, "--set", "lr=nan"], ["lr is nan"]),
        ([DIGITS, "--set", "lr=inf"], ["lr is inf"]),
        ([DIGITS, "--set", "steps=100"], ["milestones [300, 450]", "training of 100"]),
        ([DIGITS, "--set", "milestones=450,300"], ["milestones [450, 300]"]),
        ([DIGITS, "--set", "warmup_steps=600"], ["warmup_steps is 600"]),
        ([DIGITS, "--set", "momentum=1"], ["momentum is 1.0"]),
        ([DIGITS, "--set", "padding=9"], ["padding is 9"]),
        ([DIGITS, "--set", "train_size=0"], ["train_size is 0"]),
        ([DIGITS, "--set", "path_points=1000000000"], ["path_points is 1,000,000,000", "1,001 at most"]),
        ([DIGITS, "--set", "levels=1000"], ["levels is 1000", "leaves none"]),
        ([DIGITS, "--set", "levels=2000", "fraction=0.001"], ["levels is 2,000", "1,000 at most"]),
        (
            [DIGITS, "--experiments", "adaptive", "--set", "fraction=1e-4"],
            ["pruning 0.0001 a level takes 24,079 levels", "adaptive_density of 0.09", "more than 1,000"],
        ),
        ([DIGITS, "--set", "fraction=0.999"], ["leaves none"]),
        ([DIGITS, "--set", "control_levels=0,3"], ["control_levels holds 0", "at least 1"]),
        ([DIGITS, "--set", "lr=0.1", "lr=0.2"], ["lr is given twice"]),
        ([DIGITS, "--set", "replicates=3", "--replicates", "2"], ["replicates is given twice, by --replicates and by"]),
        ([DIGITS, "--workers", "10000"], ["workers is 10000"]),
        ([DIGITS, "--set", "scope=local"], ["scope is 'local'", "global, layerwise"]),
        ([DIGITS, "--set", "model=resnet9"], ["unknown model 'resnet9'"]),
        ([DIGITS, "--lr", "0.1"], ["--lr is a value of a setting; expected --set lr=0.1"]),
        ([DIGITS, "--stability-levels=3"], ["expected --set stability_levels=3"]),
        ([DIGITS, "--set", "model=resnet50"], ["resnet50", "3 channels"]),
        ([DIGITS, "--set", "batch_size=2000"], ["batch_size is 2000", "1297"]),
        ([DIGITS, "--set", "train_count=100"], ["train_count is 100", "1297"]),
        ([DIGITS, "--replicates", "0"], ["replicates is 0"]),
        ([DIGITS, "--seed", "-1"], ["seed is -1"]),
        ([DIGITS, "--workers", "0"], ["workers is 0"]),
        ([DIGITS, "--device", "cuda"], ["no CUDA device", "--device cpu"]),
        (["imagenet_resnet50"], ["--data DIR", "train.beton", "sparselt data write imagenet"]),
        (["imagenet_resnet50", "--data", "absent"], ["no data folder absent", "manifest.json", "sparselt data write"]),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, list) else None,
)
def test_bad_input_is_one_sentence_and_exit_code_2(arguments, words, capsys, empty_folder, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and all(word in error for word in words), error
    assert not list(empty_folder.iterdir())


def test_an_output_folder_that_cannot_be_written_is_refused(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    for out in (tmp_path / "file", tmp_path / "file" / "below"):
        for more in ([], ["--dry-run"]):
            assert main([DIGITS, "--out", str(out), *more]) == 2
            said = capsys.readouterr().err
            assert f"--out is {out}, but {tmp_path / 'file'} is a file; expected a folder" in said


@pytest.mark.parametrize(
    ("option", "words"),
    [("--replicates", "a whole number, such as 3"), ("--patience", "a number, such as 0.5")],
)
def test_what_is_no_number_is_named_with_what_was_expected(option, words, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit, match="2"):
        main([DIGITS, option, "two"])
    said = capsys.readouterr().err
    assert f"{option}: it is 'two'; expected {words}" in said and "NoneType" not in said


def test_every_command_names_what_is_no_number(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    for command in (["data", "write", "digits", "out", "--workers", "two"], ["runs", "show", "out", "--level", "two"]):
        with pytest.raises(SystemExit, match="2"):
            sparselt_command(command)
        assert f"{command[-2]}: it is 'two'; expected a whole number" in capsys.readouterr().err


@pytest.mark.parametrize("name", sorted(_OTHER_NAMES))
def test_the_names_that_other_tools_have_lead_to_a_value_of_ours(name):
    setting = load_setting(DIGITS)
    assert name in setting.values()
    for other in _OTHER_NAMES[name]:
        with pytest.raises(SettingError, match=f"no value '{other}'; did you mean {name}"):
            setting.changed(**{other: 1})


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    folder = tmp_path_factory.mktemp("betons") / "digits"
    write_dataset(Digits(), folder)
    return folder


def broken_copy(digits, tmp_path, change):
    import shutil

    folder = tmp_path / "broken"
    shutil.copytree(digits, folder)
    change(folder)
    return folder


def truncate(folder):
    (folder / "train.beton").write_bytes((folder / "train.beton").read_bytes()[:-100])


def swap(folder):
    (folder / "train.beton").write_bytes((folder / "test.beton").read_bytes())


def foreign(folder):
    (folder / "test.beton").write_bytes(b"\x89PNG" * 1000)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (truncate, ["train.beton", "truncated"]),
        (swap, ["train.beton", "another data set"]),
        (foreign, ["test.beton", "not a file of FFCV"]),
    ],
)
def test_a_broken_beton_is_refused(digits, tmp_path, change, words, capsys, empty_folder):
    folder = broken_copy(digits, tmp_path, change)
    assert main([DIGITS, "--data", str(folder)]) == 2
    error = capsys.readouterr().err
    assert all(word in error for word in words), error
    assert not list(empty_folder.iterdir())


def test_betons_of_another_data_set_are_refused(tmp_path, capsys, empty_folder):
    other = SyntheticImages(train_count=8, test_count=4, classes=3, height=8, width=8, channels=1, storage="raw")
    write_dataset(other, tmp_path / "other")
    assert main([DIGITS, "--data", str(tmp_path / "other")]) == 2
    error = capsys.readouterr().err
    assert "classes 3, expected 10" in error
    assert not list(empty_folder.iterdir())


def test_the_users_own_betons_are_used_where_they_stand(digits, capsys, untimed):
    assert main([DIGITS, "--data", str(digits), "--experiments", "main", "--dry-run"]) == 0
    assert "322 trainings" in capsys.readouterr().out


def test_list_shows_settings_scales_and_experiments(capsys):
    assert main(["--list"]) == 0
    shown = capsys.readouterr().out
    for word in ("digits_resnet8", "imagenet_resnet50", "paper", "mini", "smoke", "imp", "connectivity"):
        assert word in shown


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("scale", ["paper", "mini", "smoke"])
def test_every_setting_is_sound_at_every_scale(name, scale):
    setting = load_setting(name, scale)
    assert isinstance(setting, Setting) and setting.checked() == setting
    assert (setting.name, setting.scale) == (name, scale)
    known = setting.values().keys()
    assert setting.sources.keys() <= known and setting.main_values.keys() <= known
    setting.changed(**setting.main_values).checked()


def test_the_imagenet_paper_scale_is_the_papers_protocol():
    s = load_setting("imagenet_resnet50")
    assert (s.steps, s.batch_size, s.lr, s.momentum, s.weight_decay) == (15_970, 2048, 2.048, 0.875, 5e-4)
    assert s.decoupled_weight_decay and (s.schedule, s.warmup_steps) == ("cosine", 5000)
    assert (s.levels, s.rewind_steps, s.fraction, s.replicates, s.scope) == (12, (0, 1250, 5000), 0.2, 4, "global")


def test_values_are_set_by_type_and_steps_may_be_epochs():
    s = load_setting(DIGITS).with_values(["batch_size=128", "rewind_steps=0,2ep", "flip=true", "lr=0.1", "milestones="])
    assert (s.batch_size, s.rewind_steps, s.flip, s.lr, s.milestones) == (128, (0, 20), True, 0.1, ())
    with pytest.raises(SettingError, match="flip"):
        s.with_values(["flip=maybe"])
