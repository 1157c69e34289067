"""Measurements on trained networks: linear connectivity of solutions."""

from sparselt.analysis.connectivity import Path, error_barrier, evaluate_path, interpolate_state, path_positions

__all__ = ["Path", "error_barrier", "evaluate_path", "interpolate_state", "path_positions"]
