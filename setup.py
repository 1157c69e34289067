"""Maps the top-level folders kernels/ and reproduce/ into the package: nothing named `kernels` stands at top level."""

from setuptools import find_packages, setup

setup(
    packages=[
        *find_packages(include=["sparselt", "sparselt.*"]),
        *(f"sparselt.kernels{suffix}" for suffix in ["", *(f".{name}" for name in find_packages("kernels"))]),
        *(f"sparselt.reproduce{suffix}" for suffix in ["", *(f".{name}" for name in find_packages("reproduce"))]),
    ],
    package_dir={"sparselt.kernels": "kernels", "sparselt.reproduce": "reproduce"},
)
