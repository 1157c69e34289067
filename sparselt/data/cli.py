"""What `sparselt data` does; the console parses and calls these."""

import sys
from pathlib import Path

from sparselt.data.dataset import Dataset, open_dataset


def write_command(source, folder: Path | str, *, workers: int = 1) -> None:
    """Writes a source to betons with a progress bar, then prints what was written."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from sparselt.data.writing import write_dataset

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(file=sys.stderr), disable=not sys.stderr.isatty()) as bar:
        tasks: dict[str, int] = {}

        def progress(split: str, done: int, total: int) -> None:
            if split not in tasks:
                tasks[split] = bar.add_task(f"Writing {split}.beton", total=total)
            bar.update(tasks[split], completed=done)

        write_dataset(source, folder, workers=workers, progress=progress)
    info_command(folder)


def info_command(folder: Path | str) -> None:
    """Prints the manifest of a data folder, or of the folder that a .beton lies in, after verifying its files."""
    path = Path(folder)
    for line in _lines(open_dataset(path.parent if path.suffix == ".beton" else path)):
        print(line)


def _lines(dataset: Dataset) -> list[str]:
    manifest = dataset.manifest
    options = ", ".join(f"{name} = {value}" for name, value in manifest.source.items() if name != "kind")
    lines = [
        manifest.description,
        f"folder       {dataset.folder}",
        f"source       {manifest.source['kind']}: {options}",
        f"classes      {manifest.classes}",
        f"field        {manifest.field}",
        f"normalized   mean {_numbers(manifest.normalization.mean)}, std {_numbers(manifest.normalization.std)} "
        f"of pixel / {manifest.normalization.scale:g}",
        f"written by   {', '.join(f'{package} {version}' for package, version in sorted(manifest.versions.items()))}",
    ]
    for split, record in manifest.splits.items():
        shape = record.shape if isinstance(record.shape, str) else " x ".join(str(side) for side in record.shape)
        lines.append(
            f"{split:<12} {record.count:,} images, {shape}, "
            f"{record.bytes:,} bytes, {record.file}, {record.fingerprint[:12]}"
        )
    return lines


def _numbers(values: tuple[float, ...]) -> str:
    return ", ".join(f"{value:.4f}" for value in values)
