"""The stages of a run, one module for each family. `sparselt.stages.stage` explains what a stage is."""

from sparselt.stages.adaptive import AdaptivePrune, Sweep
from sparselt.stages.criteria import PruneByCriterion
from sparselt.stages.data import DatasetNote, PrepareDataset, ReadPixels
from sparselt.stages.distances import CountWeights, MeasureAngles, MeasureDistance
from sparselt.stages.flatness import MeasureFlatness, Perturb
from sparselt.stages.images import Crop, Evaluation, OnImages, RandomCrop, Shift, WholeImages
from sparselt.stages.masks import DrawMask, MakesMask, Prune, PrunedMask, Shuffle
from sparselt.stages.paths import EvaluatePairs, EvaluatePath, PathResult
from sparselt.stages.planes import EvaluatePlane, EvaluateProjection
from sparselt.stages.siblings import CombineMasks, CompareMasks
from sparselt.stages.stage import JsonFile, Stage, StageFile, Task
from sparselt.stages.train import Measurements, Train
from sparselt.stages.values import MeasuredValues, Value

__all__ = [
    "AdaptivePrune",
    "CombineMasks",
    "CompareMasks",
    "CountWeights",
    "Crop",
    "DatasetNote",
    "DrawMask",
    "EvaluatePairs",
    "EvaluatePath",
    "EvaluatePlane",
    "EvaluateProjection",
    "Evaluation",
    "JsonFile",
    "MakesMask",
    "MeasureAngles",
    "MeasureDistance",
    "MeasureFlatness",
    "MeasuredValues",
    "Measurements",
    "OnImages",
    "PathResult",
    "Perturb",
    "PrepareDataset",
    "Prune",
    "PruneByCriterion",
    "PrunedMask",
    "RandomCrop",
    "ReadPixels",
    "Shift",
    "Shuffle",
    "Stage",
    "StageFile",
    "Sweep",
    "Task",
    "Train",
    "Value",
    "WholeImages",
]
