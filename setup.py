"""Maps the top-level folders kernels/ and reproduce/ into the package: nothing named `kernels` stands at top level."""

import zipfile
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.editable_wheel import editable_wheel

# Python asks the finder of an editable installation last, and before it takes any folder named `sparselt`, such as a
# clone of this repository seen from its parent, for the package.
_NOT_OURS = 'lambda finder: "__editable___sparselt" not in getattr(finder, "__module__", "")'
_FINDER_FIRST = f"import sys; sys.meta_path.sort(key={_NOT_OURS})\n"


class EditableWheel(editable_wheel):
    """An editable installation whose finder is asked first. The .pth file's name sorts behind setuptools' own."""

    def run(self):
        super().run()
        (wheel,) = Path(self.dist_dir).glob("sparselt-*.whl")
        with zipfile.ZipFile(wheel, "a") as archive:
            archive.writestr("__sparselt_first.pth", _FINDER_FIRST)


setup(
    cmdclass={"editable_wheel": EditableWheel},
    packages=[
        *find_packages(include=["sparselt", "sparselt.*"]),
        *(f"sparselt.kernels{suffix}" for suffix in ["", *(f".{name}" for name in find_packages("kernels"))]),
        *(f"sparselt.reproduce{suffix}" for suffix in ["", *(f".{name}" for name in find_packages("reproduce"))]),
    ],
    package_dir={"sparselt.kernels": "kernels", "sparselt.reproduce": "reproduce"},
)
