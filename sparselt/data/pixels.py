"""Turns an image into the bytes to store: raw pixels, or a JPEG, as FFCV's own fields would store them."""

import io

import numpy as np

from sparselt.data.beton import JPEG, LONGEST_SIDE, RAW
from sparselt.data.sources.base import Source
from sparselt.errors import naming_extras

# A restart marker after every block: the loader then decompresses only what a crop shows (`jpeg`), for 2% more bytes.
_RESTART_BLOCKS = 1


def encoded(source: Source, image: np.ndarray, row: np.ndarray, compress: bool) -> bytes:
    """The bytes to store for an image of `source`. For a picture [H, W, 3], also fills its `row` of the beton's table.

    Pictures larger than source.max_resolution are reduced to it. Raises a ValueError for another shape or dtype.
    """
    shape = source.image_shape
    pictures = source.field == "rgb_image"
    expected = None if isinstance(shape, str) else (shape[1], shape[2], shape[0]) if pictures else shape
    if image.dtype != np.uint8 or image.size == 0:
        raise ValueError(f"it is {image.dtype} {image.shape}, expected uint8 pixels")
    if image.shape != expected if expected else image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"it has the shape {image.shape}, expected {expected or '(height, width, 3)'}")
    if not pictures:
        return image.tobytes()
    longest = max(image.shape[:2])
    if source.max_resolution is not None and longest > source.max_resolution:
        # FFCV's rounding, but no side vanishes.
        ratio = source.max_resolution / longest
        image = _resized(image, *(max(1, int(ratio * side)) for side in image.shape[:2]))
    height, width, _ = image.shape
    if max(height, width) > LONGEST_SIDE:
        raise ValueError(f"{width} x {height} pixels: a side can have at most {LONGEST_SIDE:,}")
    place = row["image"]
    place["mode"], place["width"], place["height"] = JPEG if compress else RAW, width, height
    return _jpeg(image, source.quality) if compress else image.tobytes()


@naming_extras()
def image_libraries() -> dict[str, str]:
    """The libraries that read, reduce and compress pictures here, with versions; a manifest names them.

    Pillow reads. OpenCV, which comes with FFCV, reduces and compresses, or Pillow where OpenCV is missing; their pixels
    differ by a few levels.
    """
    import PIL

    cv2 = _opencv()
    return {"pillow": PIL.__version__} if cv2 is None else {"opencv": cv2.__version__, "pillow": PIL.__version__}


def _opencv():
    """The module cv2; None where it is missing, or lacks a system library."""
    try:
        import cv2
    except ImportError:
        return None
    return cv2


def _resized(image: np.ndarray, height: int, width: int) -> np.ndarray:
    cv2 = _opencv()
    if cv2 is not None:
        return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    from PIL import Image

    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BOX))


def _jpeg(image: np.ndarray, quality: int) -> bytes:
    cv2 = _opencv()
    if cv2 is not None:
        options = [int(cv2.IMWRITE_JPEG_QUALITY), quality, int(cv2.IMWRITE_JPEG_RST_INTERVAL), _RESTART_BLOCKS]
        done, jpeg = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), options)
        if not done:
            raise ValueError("OpenCV could not compress it")
        return jpeg.tobytes()
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=quality, restart_marker_blocks=_RESTART_BLOCKS)
    return file.getvalue()
