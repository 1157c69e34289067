"""Maps the top-level folders below into the package, so that nothing named `kernels` is installed at top level."""

import zipfile
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.editable_wheel import editable_wheel

# Python asks the finder of an editable installation last, after it has taken any folder named `sparselt` on its path,
# such as a clone of this repository seen from its parent, for a package without __init__.py. This finder comes first
# and answers for that case only.
_GUARD = """\
import sys
from importlib.machinery import PathFinder


class _Guard:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name != "sparselt":
            return None
        found = PathFinder.find_spec(name)
        if found is not None and found.origin is not None:
            return None
        ours = [f for f in sys.meta_path if getattr(f, "__module__", "").startswith("__editable___sparselt")]
        return ours[0].find_spec(name, path, target) if ours else None


sys.meta_path.insert(0, _Guard)
"""


class EditableWheel(editable_wheel):
    """An editable installation that is found from any folder."""

    def run(self):
        super().run()
        (wheel,) = Path(self.dist_dir).glob("sparselt-*.whl")
        with zipfile.ZipFile(wheel, "a") as archive:
            archive.writestr("__sparselt_guard.py", _GUARD)
            archive.writestr("__sparselt_guard.pth", "import __sparselt_guard\n")


MAPPED = ("kernels", "reproduce", "benchmarks")

setup(
    cmdclass={"editable_wheel": EditableWheel},
    packages=[
        *find_packages(include=["sparselt", "sparselt.*"]),
        *(f"sparselt.{home}" for home in MAPPED),
        *(f"sparselt.{home}.{name}" for home in MAPPED for name in find_packages(home)),
    ],
    package_dir={f"sparselt.{home}": home for home in MAPPED},
)
