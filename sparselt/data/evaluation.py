"""The evaluation protocol in words, recorded with every result, because another protocol gives other numbers."""

import math
from typing import Any

from sparselt.data.manifest import Manifest

_STORED = ("max_resolution", "jpeg_share", "quality")


_CROPS = {
    "bilinear": "the central {size} x {size} of a shorter side of {shorter}, as torchvision's Resize and CenterCrop",
    "area": "the central square of {ratio:.6g} of the shorter side, its side rounded down, as FFCV's centre crop",
}
_INTERPOLATIONS = {
    "bilinear": "bilinear with antialiasing, as Pillow's",
    "area": "area averaging, as OpenCV's INTER_AREA",
}


def evaluation_record(
    manifest: Manifest, size: int | None = None, ratio: float | None = None, interpolation: str = "bilinear"
) -> dict[str, Any]:
    """The evaluation protocol as JSON: crop, resize, interpolation, normalization, and what was done when writing.

    size, ratio, interpolation: of the `CenterCrop` of pictures; without them, images are used as they are.
    """
    if size is None or ratio is None:
        shape = manifest.splits["test"].shape
        crop, resize, by = "none", f"none, stored as {shape}", "none"
    else:
        crop = _CROPS[interpolation].format(size=size, shorter=max(size, math.floor(size / ratio + 0.5)), ratio=ratio)
        resize, by = f"to {size} x {size} pixels", _INTERPOLATIONS[interpolation]
    normal = manifest.normalization
    return {
        "split": "test",
        "count": manifest.splits["test"].count,
        "skipped": len(manifest.splits["test"].skipped),
        "crop": crop,
        "resize": resize,
        "interpolation": by,
        "mean": list(normal.mean),
        "std": list(normal.std),
        "scale": normal.scale,
        "normalization_from": manifest.normalization_from,
        "stored": {name: manifest.source[name] for name in _STORED if name in manifest.source},
        "decoded_by": _picture_reader() if manifest.field == "rgb_image" else "none",
        "stored_by": dict(sorted(manifest.versions.items())) if manifest.field == "rgb_image" else {},
    }


def _picture_reader() -> str:
    from sparselt.data.streaming import picture_reader  # spares torch where data are arrays

    return picture_reader()
