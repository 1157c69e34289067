"""Measurements of the kernels and the data path against named competitors: `sparselt bench`, `make bench`.

bench_*.py are pytest-benchmark suites over `sparselt.benchmarks.harness`. The package imports nothing from here.
"""
