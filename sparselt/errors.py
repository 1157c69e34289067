"""The errors of sparselt, with one base class, so that a caller can catch all that it raises on purpose."""

from collections.abc import Iterator
from contextlib import contextmanager

EXTRAS = {
    "reproduce": ("torchvision", "PIL", "tyro", "rich", "matplotlib", "plotly", "jinja2", "sklearn", "scipy", "pandas"),
    "ffcv": ("ffcv",),
    "loggers": ("tensorboard", "wandb"),
    "onnx": ("onnx", "onnxscript"),
    "test": ("pytest", "pytest_benchmark"),
}
"""What the optional parts of the package import, by the extra of pyproject.toml that installs it."""


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


class MissingExtraError(SparseltError, ImportError):
    """A package that belongs to an extra and is not installed."""


class TrainingError(SparseltError):
    """A training that diverged: its weights or its loss are no longer finite."""


class UnequalRanksError(TrainingError):
    """The networks of a training's ranks are no longer equal."""


@contextmanager
def naming_extras() -> Iterator[None]:
    """Names the extra to install where the block, or a function decorated with this, imports a package that is missing.

    Raises:
        MissingExtraError: for packages in `EXTRAS`; others stay a ModuleNotFoundError.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        for extra, packages in EXTRAS.items():
            if package in packages:
                raise MissingExtraError(
                    f"this needs the package {package}, which is not installed; pip install 'sparselt[{extra}]'"
                ) from error
        raise
