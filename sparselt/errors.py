"""The errors of sparselt, with one base class, so that a caller can catch all that it raises on purpose."""


class SparseltError(ValueError):
    """Base of every error raised for bad input. The command line prints it as one sentence and exits with code 2."""


class MaskError(SparseltError):
    """A mask that does not fit a model, another mask, or its file."""


class CriterionError(SparseltError):
    """A pruning criterion whose scores cannot be used: wrong names, shapes, dtypes or devices, or not finite."""


class DataError(SparseltError):
    """A data folder or .beton file that is missing, truncated, changed, or of another data set."""


class SettingError(SparseltError):
    """A hyperparameter, setting, scale or experiment that cannot be run."""


class StoreError(SparseltError):
    """An output folder that cannot be written, or a stored result that does not read back."""


class TrainingError(SparseltError):
    """A training that diverged: its weights or its loss are no longer finite."""
