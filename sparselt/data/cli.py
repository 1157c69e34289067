"""What `sparselt data` does: `parse_write` reads the command line of a source; the commands write one, or show one."""

import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from sparselt.data.dataset import Dataset, open_dataset
from sparselt.data.sources import Source, find_source, source_names
from sparselt.errors import DataError

_SHEET = "samples.png"
_NAMED = 10  # skipped pictures that are printed; the manifest names all


@dataclasses.dataclass(frozen=True)
class Write:
    """What `sparselt data write SOURCE ... FOLDER` asks for; the arguments of `write_command`."""

    source: Source
    folder: Path
    workers: int
    skip_unreadable: bool


def parse_write(arguments: Sequence[str], prog: str = "sparselt data write", registry: Any = None) -> Write:
    """Reads `SOURCE ... FOLDER`. SOURCE is one of `source_names`, or a reference; its fields are the options.

    registry: how values are read, for `tyro.cli`.

    Prints help and exits if it is asked for, as tyro does. Raises a DataError for an unknown source, and for values
    that the source refuses.
    """
    import tyro

    name, *rest = arguments or ["--help"]
    if name in ("-h", "--help"):
        print(f"usage: {prog} SOURCE ... FOLDER\n\nsources, each with options of its own ({prog} SOURCE --help):")
        for known in source_names():
            print(f"  {known:<12} {(find_source(known).__doc__ or '').partition(chr(10))[0]}")
        raise SystemExit(0)
    cls = find_source(name)
    options: Any = tyro.cli(_options_of(cls), args=rest, prog=f"{prog} {name}", registry=registry)
    source = cls(**{field.name: getattr(options, field.name) for field in dataclasses.fields(cls)})
    return Write(source, options.folder, options.workers, options.skip_unreadable)


def _options_of(cls: type[Source]) -> type:
    """A dataclass for tyro: the fields of a source with their help, where to write, and how."""
    from tyro.conf import FlagCreatePairsOff, Positional, arg

    positional: Any = Positional

    def annotated(field: dataclasses.Field) -> tuple[str, Any, Any]:
        about = {name: value for name, value in field.metadata.items() if value and name != "positional"}
        kind = positional[field.type] if field.metadata.get("positional") else field.type
        default = dataclasses.field(default=field.default, default_factory=field.default_factory)
        return field.name, Annotated[kind, arg(**about)], default

    folder = Annotated[Positional[Path], arg(metavar="FOLDER", help="Where to write; made if missing.")]
    workers = arg(help="Writing processes; the files are the same for any number.", aliases=["--num-workers"])
    skip = arg(help="Leave out pictures that cannot be decoded and name them in the manifest.")
    return dataclasses.make_dataclass(
        f"Write{cls.__name__}",
        [
            *(annotated(field) for field in dataclasses.fields(cls)),
            ("folder", folder, dataclasses.field()),
            ("workers", Annotated[int, workers], 1),
            ("skip_unreadable", Annotated[FlagCreatePairsOff[bool], skip], False),
        ],
        namespace={"__doc__": cls.__doc__},
        kw_only=True,
    )


def write_command(source, folder: Path | str, *, workers: int = 1, skip_unreadable: bool = False) -> None:
    """Writes a source to betons with a progress bar, then prints what was written."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

    from sparselt.data.writing import write_dataset

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(file=sys.stderr), disable=not sys.stderr.isatty()) as bar:
        tasks: dict[str, TaskID] = {}

        def progress(split: str, done: int, total: int) -> None:
            if split not in tasks:
                tasks[split] = bar.add_task(f"Writing {split}.beton", total=total)
            bar.update(tasks[split], completed=done)

        write_dataset(source, folder, workers=workers, skip_unreadable=skip_unreadable, progress=progress)
    for line in _lines(open_dataset(folder)):
        print(line)
    print(f"to look at samples: sparselt data info {folder}")


def info_command(
    place: Path | str, *, sheet: Path | str | None = None, as_json: bool = False, verify: bool = False
) -> None:
    """Verifies a data folder, or the folder that a .beton lies in, prints its manifest and draws a contact sheet.

    Args:
        place: a folder, whose sheet shows the training split; or a .beton, whose sheet shows its own split.
        sheet: PNG file of the contact sheet. Default: samples.png in the folder; no sheet with `as_json`.
        as_json: print the manifest as JSON, with `folder`, `fingerprint` and `sheet`.
        verify: read every sample and compare all of it with the manifest.

    Raises:
        DataError: the files do not fit the manifest, or `place` is not among them.
    """
    place = Path(place)
    dataset = open_dataset(place.parent if place.suffix == ".beton" else place)
    split = _split_of(dataset, place)
    if verify:
        _verify(dataset)
    path = Path(sheet) if sheet is not None else None if as_json else dataset.folder / _SHEET
    if path is not None:
        from sparselt.data.contact_sheet import write_contact_sheet

        write_contact_sheet(dataset, split, path)
    if as_json:
        more = {"folder": str(dataset.folder), "fingerprint": dataset.manifest.fingerprint}
        record = {**more, "sheet": None if path is None else str(path), **dataclasses.asdict(dataset.manifest)}
        print(json.dumps(record, indent=2, ensure_ascii=False))
        return
    for line in _lines(dataset):
        print(line)
    if verify:
        print("verified     every sample's label and bytes are those that were written")
    print(f"samples      {path}")


def _split_of(dataset: Dataset, place: Path) -> str:
    if place.suffix != ".beton":
        return "train"
    for split, record in dataset.manifest.splits.items():
        if record.file == place.name:
            return split
    raise DataError(
        f"{place} is not of the data set in its folder: its manifest names "
        f"{', '.join(record.file for record in dataset.manifest.splits.values())}"
    )


def _verify(dataset: Dataset) -> None:
    from sparselt.data.manifest import contents

    for split, record in dataset.manifest.splits.items():
        if not record.contents:
            raise DataError(f"{dataset.folder} was written before checksums of all samples were: write it again")
        if contents(dataset.path(split)) != record.contents:
            raise DataError(
                f"{dataset.path(split)} has changed: the checksum of its samples is not the manifest's; copy it again, "
                f"or write the data set again"
            )


def _lines(dataset: Dataset) -> list[str]:
    manifest = dataset.manifest
    options = ", ".join(f"{name} = {value}" for name, value in manifest.source.items() if name != "kind")
    scale, of = f"{manifest.normalization.scale:g}", manifest.normalization_from
    names = ", ".join(manifest.class_names[:_NAMED]) + (", …" if manifest.classes > _NAMED else "")
    lines = [
        manifest.description,
        f"folder       {dataset.folder}",
        f"source       {manifest.source['kind']}: {options}",
        f"classes      {manifest.classes}: {names}",
        f"field        {manifest.field}",
        f"normalized   mean {_numbers(manifest.normalization.mean)}, std {_numbers(manifest.normalization.std)} "
        f"of pixel / {scale}{f', from {of}' if of else ''}",
        f"written by   {', '.join(f'{package} {version}' for package, version in sorted(manifest.versions.items()))}",
    ]
    for split, record in manifest.splits.items():
        shape = record.shape if isinstance(record.shape, str) else " x ".join(str(side) for side in record.shape)
        lines.append(
            f"{split:<12} {record.count:,} images, {shape}, "
            f"{record.bytes:,} bytes, {record.file}, {record.fingerprint[:12]}"
        )
        if record.skipped:
            more = f" and {len(record.skipped) - _NAMED:,} more" if len(record.skipped) > _NAMED else ""
            lines.append(f"  left out   {len(record.skipped):,} unreadable: {', '.join(record.skipped[:_NAMED])}{more}")
    return lines


def _numbers(values: tuple[float, ...]) -> str:
    return ", ".join(f"{value:.4f}" for value in values)
