"""What the user brings: found by reference or entry point, known by its source, refused with a reason."""

import functools
import hashlib
import sys

import pytest

from sparselt import own
from sparselt.errors import SettingError


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Writes a module of the user's, importable until the test ends."""
    monkeypatch.syspath_prepend(tmp_path)
    own.entry_points.cache_clear()
    written = []

    def write(name, text):
        path = tmp_path / f"{name}.py"
        path.write_text(text)
        written.append(name)
        return path

    yield write
    for name in written:
        sys.modules.pop(name, None)
    own.entry_points.cache_clear()


def test_a_reference_finds_functions_classes_and_what_is_in_them(module):
    module("own_things", "def f():\n    return 1\n\nclass A:\n    b = 2\n")
    assert own.resolve("own_things:f")() == 1
    assert own.resolve("own_things:A.b") == 2
    assert own.reference_to(own.resolve("own_things:f")) == "own_things:f"
    assert own.is_reference("own_things:f") and not own.is_reference("resnet8")


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("own_broken:f", r"own_broken cannot be imported \(ZeroDivisionError: division by zero\)"),
        ("own_absent:f", "own_absent cannot be imported .*No module named"),
        ("os:nothing_there", "module os defines no 'nothing_there'"),
        ("os.path", "expected package.module:name"),
        ("os:", "expected package.module:name"),
        ("os:a b", "expected package.module:name"),
        ("../os:path", "expected package.module:name"),
    ],
)
def test_a_reference_to_nothing_is_refused(module, reference, message):
    module("own_broken", "1 / 0\n")
    with pytest.raises(SettingError, match=message):
        own.resolve(reference)


def test_what_cannot_be_called_is_refused():
    with pytest.raises(SettingError, match="os:sep is a str; expected a function or a class"):
        own.resolve_callable("os:sep")
    assert own.resolve_callable("os:getcwd")


def test_the_digest_follows_the_file(module):
    path = module("own_digest", "class A:\n    pass\n\ndef f():\n    return 1\n")
    function, a = own.resolve("own_digest:f"), own.resolve("own_digest:A")
    expected = hashlib.sha256(path.read_bytes()).hexdigest()
    for thing in (function, a, a(), functools.partial(function), functools.wraps(function)(lambda: None)):
        assert own.source_digest(thing) == expected
    path.write_text(path.read_text() + "# edited\n")
    assert own.source_digest(function) != expected


def test_what_has_no_source_is_refused():
    for thing in (len, int, 5, eval("lambda: 1")):
        with pytest.raises(SettingError, match="has no source file"):
            own.source_digest(thing)


def test_what_no_other_process_can_import_is_refused():
    def inner():
        pass

    for thing in (inner, lambda: 1):
        with pytest.raises(SettingError, match="define it at the top of a module"):
            own.reference_to(thing)


def test_an_object_in_place_of_what_makes_it_is_refused():
    for thing in (5, functools.partial(int, "5")):
        with pytest.raises(SettingError, match=f"model is an object, a {type(thing).__name__}; expected the function"):
            own.reference_to(thing, "model")


def announce(tmp_path, package, points):
    folder = tmp_path / f"{package}-1.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1\n")
    lines = [f"[{group}]\n{name} = {value}" for group, name, value in points]
    (folder / "entry_points.txt").write_text("\n".join(lines) + "\n")


def test_entry_points_are_found_and_loaded_when_used(module, tmp_path):
    module("own_announced", "def f():\n    return 1\n")
    announce(
        tmp_path, "one", [("sparselt.models", "f", "own_announced:f"), ("sparselt.criteria", "broken", "own_absent:g")]
    )
    assert own.entry_points("sparselt.models")["f"] == "own_announced:f"
    assert "own_announced" not in sys.modules
    assert own.entry_points("sparselt.criteria")["broken"] == "own_absent:g"
    assert "f" not in own.entry_points("sparselt.settings")
    with pytest.raises(SettingError, match="own_absent cannot be imported"):
        own.resolve(own.entry_points("sparselt.criteria")["broken"])


def test_two_packages_that_announce_one_name_are_refused(module, tmp_path):
    announce(tmp_path, "one", [("sparselt.models", "f", "own_a:f")])
    announce(tmp_path, "two", [("sparselt.models", "f", "own_b:f")])
    with pytest.raises(SettingError, match=r"two packages announce 'f' in sparselt\.models"):
        own.entry_points("sparselt.models")
