"""A page of samples, sorted by class, to look at before training on a data set."""

from pathlib import Path

import numpy as np

from sparselt.data.beton import Beton
from sparselt.data.dataset import Dataset
from sparselt.errors import DataError, naming_extras
from sparselt.files import naming_errors, replacing

_CELL, _GAP, _MARGIN = 72, 4, 16
_ROWS = 12
_WIDEST_LABEL, _TITLE_HEIGHT = 160, 44
_INK, _PAPER, _FAINT = (20, 20, 20), (255, 255, 255), (236, 236, 236)


@naming_extras()
def write_contact_sheet(dataset: Dataset, split: str, path: Path | str, columns: int = 10) -> list[int]:
    """Draws up to `columns` samples of each class of a split as a PNG; returns the classes shown.

    Each class has a row, with its name at the left. Of more than 12 classes, 12 are shown, evenly spaced, as are the
    samples of a class. Small images are enlarged without smoothing. Raises a DataError if `path` cannot be written or a
    sample cannot be read.
    """
    from PIL import Image, ImageDraw

    _refuse_other_files(Path(path))
    beton, names, path = Beton(dataset.path(split)), dataset.manifest.class_names, Path(path)
    shown = [int(label) for label in _spaced(np.arange(dataset.classes), _ROWS)]
    font, title_font = _font(13), _font(18)
    labels = [_fitted(f"class {label}" if names[label] == str(label) else names[label], font) for label in shown]
    first = _MARGIN + 4 * _GAP + max(round(font.getlength(label)) for label in labels)
    width = first + columns * (_CELL + _GAP) + _MARGIN
    sheet = Image.new("RGB", (width, 2 * _MARGIN + _TITLE_HEIGHT + len(shown) * (_CELL + _GAP)), _PAPER)
    draw = ImageDraw.Draw(sheet)
    of = "" if len(shown) == dataset.classes else f", {len(shown)} of its {dataset.classes:,} classes"
    title = f"{dataset.manifest.source['kind']}, {split} split: {dataset.count(split):,} images{of}"
    draw.text((_MARGIN, _MARGIN), title, fill=_INK, font=title_font)
    levels = dataset.manifest.normalization.scale
    for row, label in enumerate(shown):
        top = _MARGIN + _TITLE_HEIGHT + row * (_CELL + _GAP)
        draw.text((_MARGIN, top + _CELL // 2), labels[row], fill=_INK, font=font, anchor="lm")
        for column, index in enumerate(_spaced(np.flatnonzero(beton.labels == label), columns)):
            left = first + column * (_CELL + _GAP)
            draw.rectangle((left, top, left + _CELL - 1, top + _CELL - 1), fill=_FAINT)
            picture = _thumbnail(_pixels(beton.image(int(index)), beton.field, levels))
            sheet.paste(picture, (left + (_CELL - picture.width) // 2, top + (_CELL - picture.height) // 2))
    with _naming_errors(path), replacing(path) as partial:
        sheet.save(partial, "PNG")
    return shown


def _refuse_other_files(path: Path) -> None:
    """A sheet replaces a picture, and nothing else: not a beton, nor its manifest."""
    if not path.exists():
        return
    with _naming_errors(path), path.open("rb") as file:
        found = file.read(8)
    if found != b"\x89PNG\r\n\x1a\n":
        raise DataError(f"{path} is there and is no PNG: name another file with --sheet")


def _naming_errors(path: Path):
    return naming_errors(f"contact sheet {path}", DataError, "name another file with --sheet")


def _spaced(items: np.ndarray, most: int) -> np.ndarray:
    """At most so many of the items, evenly spaced, the first and the last among them."""
    return items if len(items) <= most else items[np.linspace(0, len(items) - 1, most).round().astype(int)]


def _pixels(image: np.ndarray, field: str, levels: float) -> np.ndarray:
    """uint8 [H, W, 3] from 0 to 255. An array that is neither grey nor of three colours shows its first channel."""
    if field == "ndarray":
        image = image if len(image) == 3 else image[:1].repeat(3, axis=0)
        image = image.transpose(1, 2, 0)
    return image if levels == 255 else np.clip(image * (255 / levels), 0, 255).astype(np.uint8)


def _thumbnail(pixels: np.ndarray):
    from PIL import Image

    picture = Image.fromarray(np.ascontiguousarray(pixels))
    ratio = _CELL / max(picture.size)
    width, height = (max(1, round(side * ratio)) for side in picture.size)
    return picture.resize((width, height), Image.Resampling.NEAREST if ratio > 1 else Image.Resampling.LANCZOS)


def _font(size: int):
    """Matplotlib's font, which has the letters of most alphabets; Pillow's has only ASCII."""
    from matplotlib import get_data_path
    from PIL import ImageFont

    return ImageFont.truetype(str(Path(get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"), size)


def _fitted(text: str, font) -> str:
    """The text, cut where it is too long."""
    if font.getlength(text) <= _WIDEST_LABEL:
        return text
    while text and font.getlength(text + "…") > _WIDEST_LABEL:
        text = text[:-1]
    return text + "…"
