"""Measurements on trained networks: linear connectivity of solutions, planes through them."""

from sparselt.analysis.connectivity import Path, error_barrier, evaluate_path, path_positions
from sparselt.analysis.landscape import Plane, evaluate_plane

__all__ = ["Path", "Plane", "error_barrier", "evaluate_path", "evaluate_plane", "path_positions"]
