"""Where a run takes place: its device, its workers, its folders."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from sparselt.errors import SettingError
from sparselt.experiments.needs import check_gpu_memory
from sparselt.experiments.setting import Setting
from sparselt.runs.claims import PATIENCE
from sparselt.runs.devices import cuda_devices, together
from sparselt.runs.pool import Pool, asked
from sparselt.runs.workers import SAVE_SECONDS, Workers, default_workers
from sparselt.stages.resources import Resources
from sparselt.stages.stage import Stage

_MOST_GPUS = 4096


@dataclass(frozen=True)
class Where:
    """Where a run takes place.

    Args:
        data: a folder of betons, instead of the setting's source.
        out: folder for results; earlier results there are reused.
        device: `cpu` or `cuda`.
        workers: stages at a time; None: the cores divided by the threads of a training (cuda: one a GPU).
        cohort: equal trainings that a worker makes side by side; None: 1 (cuda: measured).
        command: the command for the same run, for the record.
        save_minutes: how often a training saves its progress.
        patience: seconds without a sign of life after which another run on the same store counts as gone.
        gpus, images_per_second: for a dry run, a number of GPUs to simulate, and what one of them is assumed to train.
        executor: `local`: processes on this machine; `ray`: workers on the nodes of a Ray cluster.
        ray_address: of the cluster, `host:port` or `auto`; None: one of the run's own on this machine.
        gpu_share: with Ray, the part of a GPU that a training takes.
        threads: CPU threads of each training; None: the setting's, or more if the plan is narrower than the machine.
        log: loggers, keys of `sparselt.runs.loggers.LOGGERS`.
        json: print lines of JSON, see `sparselt.experiments.events`.
    """

    data: Path | None = None
    out: Path = Path("runs")
    device: str = "cpu"
    workers: int | None = None
    cohort: int | None = None
    command: str = ""
    save_minutes: float = SAVE_SECONDS / 60
    patience: float = PATIENCE
    gpus: int | None = None
    images_per_second: float | None = None
    executor: str = "local"
    ray_address: str | None = None
    gpu_share: float = 1.0
    threads: int | None = None
    log: tuple[str, ...] = ()
    json: bool = False


def check_out(out: Path) -> None:
    """Raises a SettingError if a file stands where the folder for results would be."""
    file = next((place for place in (out, *out.parents) if place.is_file()), None)
    if file is not None:
        raise SettingError(f"--out is {out}, but {file} is a file; expected a folder, which is made if it is missing")


def check_simulation(where: Where, dry_run: bool) -> None:
    """Raises a SettingError unless the simulation that is asked for, if any, has all that it takes."""
    if where.gpus is None and where.images_per_second is None:
        return
    if not dry_run:
        raise SettingError("--gpus and --images-per-second simulate a run; give --dry-run, too")
    if where.gpus is None or where.images_per_second is None:
        raise SettingError(
            "give both --gpus and --images-per-second: what one GPU trains is an assumption of yours, for no GPU has "
            "been measured here"
        )
    if not 1 <= where.gpus <= _MOST_GPUS:
        raise SettingError(f"--gpus is {where.gpus}; expected 1 to {_MOST_GPUS}")
    if not 0 < where.images_per_second < math.inf:
        raise SettingError(f"--images-per-second is {where.images_per_second:g}; expected more than 0")


def pool_of(where: Where, setting: Setting, dry_run: bool) -> Pool:
    """The workers that the run asks for; none has started yet."""
    if where.device not in ("cpu", "cuda"):
        raise SettingError(f"device is {where.device!r}; expected cpu or cuda")
    save_seconds = 60 * where.save_minutes
    if setting.ranks > 1 and (where.cohort or 1) > 1:
        raise SettingError(
            f"cohort is {where.cohort}, but a training of {setting.ranks} ranks runs alone; give one of the two"
        )
    if setting.recipe.sparse_up_to and where.device == "cpu" and (where.cohort or 1) > 1:
        raise SettingError(
            f"cohort is {where.cohort}, but trainings on live weights alone (sparse_up_to is "
            f"{setting.sparse_up_to:g}) run one by one; set sparse_up_to=0, or give no cohort"
        )
    if where.device == "cuda":
        _check_rule(setting)
    if where.executor == "ray":
        from sparselt.runs.ray_pool import RayWorkers

        each = Resources(setting.threads, float(where.device == "cuda"), setting.ranks)
        root = None if dry_run else where.out / "store"
        return RayWorkers(
            *(each, root, where.ray_address, where.workers, where.gpu_share),
            *(where.cohort, save_seconds, where.patience),
        )
    if where.executor != "local":
        raise SettingError(f"executor is {where.executor!r}; expected local or ray")
    if where.ray_address is not None or where.gpu_share != 1:
        raise SettingError("--ray-address and --gpu-share are for Ray; give --executor ray, too")
    _check_device(where.device)
    devices = together(cuda_devices(), setting.ranks) if where.device == "cuda" else []
    usual = len(devices) or default_workers(setting.threads * setting.ranks)
    return Workers(
        usual if where.workers is None else where.workers, where.cohort, devices, save_seconds, where.patience
    )


def check_gpu(setting: Setting, missing: Iterable[Stage], pool: Pool) -> None:
    """Refuses trainings whose micro-batches do not fit the GPU of a worker. The worker asks its GPU: with Ray this
    machine may have none."""
    import torch

    from sparselt.data.loaders import free_bytes

    free = asked(pool, "the free memory of its GPU", free_bytes, torch.device("cuda"))
    if free is not None:
        check_gpu_memory(setting, missing, int(pool.gpu_share * free))


def _check_rule(setting: Setting) -> None:
    from sparselt.optim import operation_of

    if operation_of(setting.recipe).gpu_rule is None:
        raise SettingError(
            f"--device cuda: the optimizer {setting.optimizer} has no rule for a GPU; use --device cpu, or give its "
            "operation a gpu_rule"
        )


def _check_device(device: str) -> None:
    if device == "cuda":
        import torch

        if not torch.cuda.is_available():
            raise SettingError(
                "--device cuda: torch sees no CUDA device here; use --device cpu, or check `sparselt doctor`"
            )
