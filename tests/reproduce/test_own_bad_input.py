"""What a user brings that cannot be used: one sentence that names it and what was expected, before anything trains."""

import dataclasses
import importlib
import io
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from rich.console import Console
from torch import nn

from sparselt import own
from sparselt.cli.reproduce import main
from sparselt.data import Digits
from sparselt.errors import SparseltError
from sparselt.experiments import Experiment, Measurement, Options
from sparselt.experiments.sections import sections_of
from sparselt.experiments.values import value
from sparselt.report.data import Data
from sparselt.reproduce import digits_resnet8, load_setting, run

OWN = '''
from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

import numpy
import torch
from torch import nn

from sparselt.criteria import Criterion
from sparselt.data import Digits, Source
from sparselt.experiments import Experiment, Measurement, Options
from sparselt.experiments.setting import Setting
from sparselt.experiments.values import value
from sparselt.report.data import Section
from sparselt.reproduce import digits_resnet8


def eleven(classes, channels):
    return nn.Sequential(nn.Flatten(), nn.Linear(64 * channels, 11))

def weights_only(classes, channels):
    return nn.Linear(64, 10).state_dict()

def pooled(classes, channels):
    return nn.Sequential(nn.AvgPool2d(8), nn.Flatten())

def not_finite(classes, channels):
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, classes))
    nn.init.constant_(network[1].weight, float("nan"))
    return network

def elsewhere(classes, channels):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, classes, device="meta"))

def half(network):
    return dict(list(network.weights.items())[:-1])

def flat(network):
    return {name: weight.flatten() for name, weight in network.weights.items()}

def nans(network):
    return {name: weight * float("nan") for name, weight in network.weights.items()}

def away(network):
    return {name: torch.empty_like(weight, device="meta") for name, weight in network.weights.items()}

def raises(network):
    return network.wheights

def changes(network):
    with torch.no_grad():
        for parameter in network.model.parameters():
            parameter.zero_()
    return network.weights

def unseeded(network):
    return {name: torch.from_numpy(numpy.random.default_rng().random(w.shape)) for name, w in network.weights.items()}

def one_factor(network):
    factor = numpy.random.default_rng().random()
    return {name: torch.full_like(w, factor) for name, w in network.weights.items()}

def by_noise(network):
    return {name: (network.weights[name] * next(network.samples())[0].std()).abs() for name in network.mask}

needs_weights = Criterion(by_noise, needs="weights")
a_number = 5


@dataclass(frozen=True)
class Turned(Source):
    classes: ClassVar[int] = 10
    image_shape: ClassVar = (1, 8, 8)
    train_count: int = 1297
    test_count: ClassVar[int] = 500

    def arrays(self, split):
        images, labels = Digits().arrays(split)
        return images[:-1], labels

@dataclass(frozen=True)
class Alone(Turned):
    def arrays(self, split):
        return Digits().arrays(split)[0]

@dataclass(frozen=True)
class Broken(Turned):
    def arrays(self, split):
        return Digits().array(split)

@dataclass(frozen=True)
class Oblong(Turned):
    image_shape: ClassVar = (1, 8, 9)

class Undecorated(Turned):
    pass


def no_setting(scale):
    digits_resnet8.setting(scale)

def other_scale(scale):
    return digits_resnet8.setting("mini")

def no_scale(scale):
    return {"mini": 1}[scale]


def driver(lab):
    """The dense network."""
    yield Measurement("mine", "dense", 0, None, 0, lab.dense(0))

def fails(data):
    return data.rows[0].eror

def text(data):
    return "one sentence"

def nothing(data):
    return []

def none_drawn(data):
    return {}

def draws_text(data):
    return {"figure": "none"}

def same_figure(data):
    from sparselt.report import drawing
    from sparselt.report.data import Drawing
    return {"a figure": Drawing(drawing.canvas(2)[0], "", "")}

SECTION = Section("Mine", none_drawn, fails, nothing)


@dataclass(frozen=True, kw_only=True)
class Annotated(Options):
    depth: tuple[int, ...] = value((), help="a number", least=1)
'''


@pytest.fixture(autouse=True)
def things(tmp_path, monkeypatch):
    """The module above, importable until the test ends."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own_bad.py").write_text(OWN)
    own.entry_points.cache_clear()
    yield importlib.import_module("own_bad")
    for name in [name for name in sys.modules if name.startswith("own_bad")]:
        del sys.modules[name]
    own.entry_points.cache_clear()


def refused(*arguments, **more) -> str:
    """The sentence that `run` refuses these arguments with; nothing has been trained."""
    with pytest.raises(SparseltError) as error:
        run(*arguments, console=Console(file=io.StringIO()), workers=1, **more)
    assert not list(Path().glob("runs/store/train/*"))
    return str(error.value)


def mine(measure, **more) -> dict[str, Experiment]:
    return {"mine": Experiment(measure, "nobody", **more)}


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("eleven", "eleven answers two images with [2, 11]; expected a tensor of shape [2, 10]"),
        ("weights_only", "weights_only returned a OrderedDict; expected a torch.nn.Module"),
        ("pooled", "pooled has no convolution and no fully connected layer"),
        ("not_finite", "'1.weight' holds numbers that are not finite"),
        ("elsewhere", "'1.weight' is torch.float32 on meta; expected torch.float32 on cpu"),
        ("a_number", "own_bad:a_number is a int; expected a function or a class"),
        ("absent", "own_bad defines no 'absent'"),
    ],
)
def test_a_model_is_tried(name, words):
    assert words in refused("digits_resnet8", ["imp"], scale="smoke", model=f"own_bad:{name}")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("half", "criterion 'half': got no scores for layer"),
        ("flat", "have shape (72,); expected its weight's, (8, 1, 3, 3)"),
        ("nans", "are NaN or infinite for 72 live weights"),
        ("away", "are on meta; expected them on cpu"),
        (
            "raises",
            "criterion 'raises' raised AttributeError: 'MaskedNetwork' object has no attribute 'wheights'",
        ),
        ("changes", "own_bad:changes changes 'conv.weight' of the network; expected it to work on a copy()"),
        ("unseeded", "own_bad:unseeded scores one network in two ways"),
        ("one_factor", "own_bad:one_factor scores one network in two ways"),
        ("needs_weights", "this criterion needs data and got none"),
        ("a_number", "pruning criterion is a int; expected one of"),
        ("absent", "own_bad defines no 'absent'"),
    ],
)
def test_a_criterion_is_tried(name, words):
    assert words in refused("digits_resnet8", ["imp"], scale="smoke", criterion=f"own_bad:{name}")


def test_a_function_is_taken_where_other_processes_can_import_it(things):
    words = "eleven answers two images with [2, 11]"
    assert words in refused("digits_resnet8", ["imp"], scale="smoke", model=things.eleven)
    assert "define it at the top of a module" in refused("digits_resnet8", ["imp"], model=lambda classes, channels: 1)


def test_a_network_in_place_of_the_function_that_makes_it_is_refused():
    words = "model is an object, a Linear; expected the function or class that makes it"
    assert words in refused("digits_resnet8", ["imp"], scale="smoke", model=nn.Linear(3, 3))


@pytest.mark.parametrize("none", [[], (), {}])
def test_no_experiment_is_refused(none):
    assert "experiments is empty; expected one or more of imp," in refused("digits_resnet8", none, scale="smoke")


def test_an_unknown_device_is_refused():
    assert "device is 'gpu'; expected cpu or cuda" in refused("digits_resnet8", ["imp"], scale="smoke", device="gpu")


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda m: m.Turned(), "Turned has train images (1296, 1, 8, 8) of uint8"),
        (lambda m: m.Oblong(), "Oblong: image_shape is (1, 8, 9); expected (channels, side, side)"),
        (lambda m: m.Undecorated(), "Undecorated lacks @dataclass(frozen=True)"),
        (lambda m: m.Turned, "source is the class Turned; expected one of its values, Turned(…)"),
        (lambda m: m.Turned(train_count=-1), "Turned: train_count is -1; expected a whole number from 1"),
        (lambda m: 5, "<class 'int'> is not a source"),
    ],
)
def test_a_source_is_checked(things, make, words):
    assert words in refused("digits_resnet8", ["imp"], scale="smoke", source=make(things))


def test_what_a_source_makes_is_checked(things):
    with pytest.raises(SparseltError, match=r"Alone.arrays.'train'. returned a ndarray; expected two arrays of NumPy"):
        things.Alone().samples("train")
    with pytest.raises(SparseltError, match=r"Broken.arrays.'train'. raised AttributeError: .* \(own_bad.py, line \d+"):
        things.Broken().samples("train")


def test_a_setting_that_does_not_fit_its_source_is_refused():
    setting = dataclasses.replace(digits_resnet8.setting("smoke"), train_size=9, eval_size=9)
    assert "train_size is 9, but digits_resnet8 has 8" in refused(setting, ["imp"])
    assert digits_resnet8.setting("smoke").with_source(Digits(test_count=97)).train_count == 1700


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("no_setting", "own_bad:no_setting('smoke') returned None; expected a sparselt.experiments.setting.Setting"),
        ("other_scale", "other_scale('smoke') returned a setting of scale 'mini'; expected the scale asked for"),
        ("no_scale", "no_scale('smoke') raised KeyError: 'smoke' (own_bad.py, line"),
        ("a_number", "own_bad:a_number is a int"),
    ],
)
def test_a_settings_function_is_checked(name, words):
    with pytest.raises(SparseltError) as error:
        load_setting(f"own_bad:{name}", "smoke")
    assert words in str(error.value)


def test_what_is_no_setting_or_no_list_of_names_is_refused():
    assert "setting is 5; expected a name, or a" in refused(5, ["imp"])
    assert "experiments is 'imp'; expected several names, such as ('imp',)" in refused("digits_resnet8", "imp")
    setting = digits_resnet8.setting("smoke")
    assert "scale is 'mini', but the Setting given is of scale 'smoke'" in refused(setting, ["imp"], scale="mini")


def wrong_name(lab):
    yield Measurement("yours", "dense", 0, None, 0, lab.dense(0))


def stages(lab):
    yield lab.dense(0)


def nothing(lab):
    yield from ()


@pytest.mark.parametrize(
    ("driver", "words"),
    [
        (wrong_name, "experiment mine yields a Measurement of experiment 'yours'"),
        (stages, "stages(lab) yields a Train; expected a Measurement"),
        (nothing, "mine: no measurement is yielded, and so there is nothing to run"),
    ],
)
def test_a_driver_is_checked(driver, words):
    assert words in refused("digits_resnet8", mine(driver), scale="smoke")


def test_a_driver_that_yields_nothing_is_named_beside_others(things):
    both = {"mine": Experiment(things.driver, "nobody"), "idle": Experiment(nothing, "nobody")}
    assert refused("digits_resnet8", both, scale="smoke").startswith("idle: no measurement is yielded")


@pytest.mark.parametrize("name", ["main", "two words", "", 5])
def test_the_name_of_an_experiment_is_checked(things, name):
    experiments = {name: Experiment(things.driver, "nobody")}
    assert f"an experiment is called {name!r}; expected letters" in refused("digits_resnet8", experiments)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"measure": 5}, "Experiment: measure is 5; expected a function"),
        ({"unsupported_reason": "no"}, "Experiment: unsupported_reason is 'no'; expected a function"),
        ({"report": None}, "Experiment: report is None; expected a str"),
    ],
)
def test_an_experiment_is_checked(more, words):
    with pytest.raises(SparseltError) as error:
        Experiment(**{"measure": nothing, "paper": "nobody"} | more)
    assert words in str(error.value)


def test_a_reason_against_a_setting_is_checked(things):
    def true(setting):
        return True

    def breaks(setting):
        return setting.dept

    assert "returned True; expected a reason" in refused("digits_resnet8", mine(things.driver, unsupported_reason=true))
    said = refused("digits_resnet8", mine(things.driver, unsupported_reason=breaks))
    assert "breaks(setting) of the experiment with driver driver raised AttributeError" in said


@dataclass(frozen=True, kw_only=True)
class OfSettings(Options):
    lr: float = value(0.1, help="a rate")


@dataclass(frozen=True, kw_only=True)
class OfAnother(Options):
    low_lr: float = value(0.1, help="a rate")


@dataclass(frozen=True, kw_only=True)
class WithoutRule(Options):
    depth: int = 3


@dataclass(frozen=True, kw_only=True)
class WithoutDefault(Options):
    depth: int = value(help="a number")


@dataclass(frozen=True, kw_only=True)
class OfAnotherType(Options):
    depth: int = value("deep", help="a number")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (OfSettings, "every setting has a value 'lr' too, so that it could not be set by its name"),
        (OfAnother, "experiment stability has a value 'low_lr' too"),
        (WithoutRule, "field 'depth' has no rule or no default"),
        (WithoutDefault, "field 'depth' has no rule or no default"),
        (OfAnotherType, "default depth is 'deep'; expected a whole number"),
        (dict, "<class 'dict'> is no @dataclass(frozen=True) derived from sparselt.experiments.Options"),
    ],
)
def test_options_are_checked(things, options, words):
    said = refused("digits_resnet8", mine(things.driver, options=options))
    assert said.startswith("options of experiment mine") and words in said


def test_options_may_be_annotated_as_text(things):
    experiments = mine(things.driver, options=things.Annotated)
    assert "depth holds 0" in refused("digits_resnet8", experiments, depth=(0,))
    assert "depth is 3; expected several in a tuple" in refused("digits_resnet8", experiments, depth=3)


@pytest.mark.parametrize(
    ("report", "words"),
    [
        ("own_bad_absent", "experiment mine: No module named 'own_bad_absent'; expected its report"),
        ("sparselt.experiments.nowhere.report", "experiment mine: No module named 'sparselt.experiments.nowhere'"),
        ("math", "experiment mine: module 'math' has no attribute 'SECTION'"),
        ("own_bad_number", "experiment mine: SECTION of own_bad_number is 5; expected a sparselt.report.data.Section"),
        ("own_bad_findings", "experiment mine: findings(data) of its report is 'text'; expected a function"),
    ],
)
def test_a_section_is_imported_before_anything_trains(things, tmp_path, report, words):
    (tmp_path / "own_bad_number.py").write_text("SECTION = 5\n")
    (tmp_path / "own_bad_findings.py").write_text(
        "from own_bad import *\nSECTION = dataclasses.replace(SECTION, findings='text')\n"
    )
    assert words in refused("digits_resnet8", mine(things.driver, report=report), scale="smoke")


@pytest.mark.parametrize(
    ("of", "function", "words"),
    [
        ("findings", "fails", "findings(data) of its report raised IndexError: tuple index out of range (own_bad.py"),
        ("findings", "text", "findings(data) of its report returned 'one sentence'; expected a list of str"),
        ("drawings", "draws_text", "returned {'figure': 'none'}; expected a dict of Drawing"),
        ("drawings", "same_figure", "drawings(data) of its report calls a figure 'a figure'"),
        ("claims", "text", "claims(data) of its report returned 'one sentence'; expected a list of Claim"),
        ("warnings", "text", "warnings(data) of its report returned 'one sentence'"),
        ("tables", "text", "tables(data) of its report returned 'one sentence'; expected a list of Table"),
    ],
)
def test_a_function_of_a_section_is_checked_when_it_is_called(things, monkeypatch, of, function, words):
    monkeypatch.setattr(things, "SECTION", dataclasses.replace(things.SECTION, **{of: getattr(things, function)}))
    section = sections_of(mine(things.driver, report="own_bad"))["mine"]
    with pytest.raises(SparseltError) as error:
        getattr(section, of)(Data((), {}))
    assert str(error.value).startswith("experiment mine: ") and words in str(error.value)


def test_a_section_that_fails_loses_no_results(things, tmp_path):
    with pytest.raises(SparseltError) as error:
        run(
            "digits_resnet8",
            mine(things.driver, report="own_bad"),
            scale="smoke",
            console=Console(file=io.StringIO()),
            workers=1,
            steps=2,
            milestones=(1,),
            rewind_steps=(0,),
        )
    assert "experiment mine: findings(data) of its report raised AttributeError" in str(error.value)
    (results,) = tmp_path.glob("runs/digits_resnet8-smoke-*/results.csv")
    assert ",mine,dense," in results.read_text()


def announce(folder, group, line):
    installed = folder / "own_bad-1.dist-info"
    installed.mkdir()
    (installed / "entry_points.txt").write_text(f"[{group}]\n{line}\n")
    own.entry_points.cache_clear()


@pytest.mark.parametrize(
    ("group", "line", "arguments", "words"),
    [
        (
            "experiments",
            "x = own_bad_absent:X",
            [],
            "announces experiment x: own_bad_absent:X: module",
        ),
        ("experiments", "x = own_bad:driver", [], "entry point x = own_bad:driver is <function driver"),
        ("experiments", "imp = own_bad:X", [], "own_bad:X: module own_bad defines no 'X'"),
        ("settings", "x = own_bad_absent:x", ["x"], "own_bad_absent cannot be imported"),
        ("settings", "digits_resnet8 = own_bad:x", [], "announces own_bad:x as 'digits_resnet8' in sparselt.settings"),
        ("models", "x = own_bad_absent:x", ["--set", "model=x"], "own_bad_absent cannot be imported"),
        ("models", "resnet8 = own_bad:x", [], "announces own_bad:x as 'resnet8' in sparselt.models"),
        ("criteria", "x = own_bad_absent:x", ["--set", "criterion=x"], "own_bad_absent cannot be imported"),
        (
            "criteria",
            "snip = own_bad:x",
            ["--set", "criterion=snip"],
            "as 'snip' in sparselt.criteria, but",
        ),
    ],
)
def test_what_a_package_announces_is_checked(tmp_path, capsys, group, line, arguments, words):
    announce(tmp_path, f"sparselt.{group}", line)
    named = arguments if arguments[:1] == ["x"] else ["digits_resnet8", "--scale", "smoke", *arguments]
    assert main([*named, "--dry-run"]) == 2
    assert words in " ".join(capsys.readouterr().err.split())


def test_an_experiment_announced_by_a_name_of_ours_is_refused(tmp_path, capsys, things):
    things.EXPERIMENT = Experiment(things.driver, "nobody")
    announce(tmp_path, "sparselt.experiments", "imp = own_bad:EXPERIMENT")
    assert main(["digits_resnet8", "--dry-run"]) == 2
    assert "as 'imp' in sparselt.experiments, but sparselt has 'imp' itself" in " ".join(
        capsys.readouterr().err.split()
    )


@pytest.mark.parametrize("name", ["../../evil", "a/b", "my stripes", ""])
def test_a_settings_name_stays_in_the_output_folder(name, tmp_path):
    setting = dataclasses.replace(load_setting("digits_resnet8", "smoke"), name=name)
    assert f"the setting's name is {name!r}; expected letters" in refused(setting, ["imp"], out=tmp_path / "out" / "in")
    assert not (tmp_path / "out").exists()


def test_experiments_of_the_users_own_stand_in_a_mapping(things):
    alone = list(mine(things.driver).values())
    assert "expected names, or a mapping from names" in refused("digits_resnet8", alone, scale="smoke")
    message = refused("digits_resnet8", {"mine": things.driver}, scale="smoke", peak_rates=(1.0,))
    assert "EXPERIMENTS['mine'] is <function driver" in message and "expected Experiment(driver, paper)" in message
