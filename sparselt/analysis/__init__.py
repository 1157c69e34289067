"""Measurements on trained networks: lines and planes between solutions, how much a level may prune,
distances and angles, flatness, histograms of weights, overlap of masks.
"""

from sparselt.analysis.adaptive import (
    AdaptiveSearch,
    TrainThreshold,
    adaptive_fraction,
    dense_threshold,
    subsample_indices,
)
from sparselt.analysis.batch_norm import reestimate_statistics_
from sparselt.analysis.connectivity import (
    HeatMap,
    Path,
    Plane,
    error_barrier,
    evaluate_path,
    evaluate_plane,
    instability,
    pairwise_max_error,
    path_positions,
)
from sparselt.analysis.distances import angle, angular_distance, angular_distance_matrix, l2_distance
from sparselt.analysis.flatness import Eigenvalues, Hessian, Trace, hessian_eigenvalues, hessian_trace
from sparselt.analysis.histograms import WeightHistogram, bimodality_coefficient, weight_histogram
from sparselt.analysis.overlap import (
    Overlap,
    intersection_chance,
    jaccard_chance,
    layerwise_intersection_chance,
    layerwise_jaccard_chance,
    layerwise_union_chance,
    mask_overlap,
    mean_pairwise_jaccard,
    union_chance,
)
from sparselt.analysis.perturbation import perturbed, projection_distance
from sparselt.analysis.plane import PlaneAxes, lcs_set, plane_axes

__all__ = [
    "AdaptiveSearch",
    "Eigenvalues",
    "HeatMap",
    "Hessian",
    "Overlap",
    "Path",
    "Plane",
    "PlaneAxes",
    "Trace",
    "TrainThreshold",
    "WeightHistogram",
    "adaptive_fraction",
    "angle",
    "angular_distance",
    "angular_distance_matrix",
    "bimodality_coefficient",
    "dense_threshold",
    "error_barrier",
    "evaluate_path",
    "evaluate_plane",
    "hessian_eigenvalues",
    "hessian_trace",
    "instability",
    "intersection_chance",
    "jaccard_chance",
    "l2_distance",
    "layerwise_intersection_chance",
    "layerwise_jaccard_chance",
    "layerwise_union_chance",
    "lcs_set",
    "mask_overlap",
    "mean_pairwise_jaccard",
    "pairwise_max_error",
    "path_positions",
    "perturbed",
    "plane_axes",
    "projection_distance",
    "reestimate_statistics_",
    "subsample_indices",
    "union_chance",
    "weight_histogram",
]
