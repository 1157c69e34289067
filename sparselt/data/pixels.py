"""What is stored of an image: its bytes, or a JPEG of them, as FFCV's own fields would store it."""

from collections.abc import Callable

import numpy as np

from sparselt.data.beton import JPEG, LONGEST_SIDE, RAW

# A restart marker after every block: the loader then decompresses only what a crop shows (`jpeg`), for 2% more bytes.
_RESTART_BLOCKS = 1


def encoder(source) -> Callable[[np.ndarray, np.ndarray, bool], bytes]:
    """A function of (image, row of the table, whether to compress) that fills the row and returns the bytes to store.

    The images are of source.image_shape, or pictures [H, W, 3] that are first reduced to source.max_resolution. The
    function raises ValueError for an image of another shape or dtype.
    """
    if source.field == "ndarray":
        return _array_encoder(source.image_shape)
    return _picture_encoder(source.image_shape, source.max_resolution, source.quality)


def image_libraries() -> dict[str, str]:
    """What reads, reduces and compresses pictures here, with versions: Pillow reads; OpenCV, which comes with FFCV,
    does the rest, or Pillow where it is missing. Their pixels differ by a few levels, so a manifest names them.
    """
    import PIL

    if not _has_opencv():
        return {"pillow": PIL.__version__}
    import cv2

    return {"opencv": cv2.__version__, "pillow": PIL.__version__}


def _has_opencv() -> bool:
    try:
        import cv2  # noqa: F401 (it may be there and lack a system library)
    except ImportError:
        return False
    return True


def _array_encoder(shape: tuple[int, int, int]):
    def encode(image: np.ndarray, row: np.ndarray, compress: bool) -> bytes:
        _check(image, shape)
        return image.tobytes()

    return encode


def _picture_encoder(shape, longest: int | None, quality: int):
    resized, to_jpeg = (_opencv_resized, _opencv_jpeg) if _has_opencv() else (_resized, _jpeg)
    expected = None if isinstance(shape, str) else (shape[1], shape[2], shape[0])

    def encode(image: np.ndarray, row: np.ndarray, compress: bool) -> bytes:
        _check(image, expected)
        height, width = image.shape[:2]
        if longest is not None and max(height, width) > longest:
            # FFCV's rounding, but for sides that would vanish.
            ratio = longest / max(height, width)
            image = resized(image, max(1, int(ratio * width)), max(1, int(ratio * height)))
            height, width = image.shape[:2]
        if max(height, width) > LONGEST_SIDE:
            raise ValueError(f"{width} x {height} pixels: a side can have at most {LONGEST_SIDE:,}")
        place = row["image"]
        place["mode"], place["width"], place["height"] = JPEG if compress else RAW, width, height
        return to_jpeg(image, quality) if compress else image.tobytes()

    return encode


def _check(image: np.ndarray, shape: tuple[int, ...] | None) -> None:
    if image.dtype != np.uint8 or image.size == 0:
        raise ValueError(f"it is {image.dtype} {image.shape}, expected uint8 pixels")
    if (shape is not None and image.shape != shape) or (shape is None and (image.ndim != 3 or image.shape[2] != 3)):
        raise ValueError(f"it has the shape {image.shape}, expected {shape or '(height, width, 3)'}")


def _opencv_resized(image: np.ndarray, width: int, height: int) -> np.ndarray:
    import cv2

    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)


def _opencv_jpeg(image: np.ndarray, quality: int) -> bytes:
    import cv2

    options = [int(cv2.IMWRITE_JPEG_QUALITY), quality, int(cv2.IMWRITE_JPEG_RST_INTERVAL), _RESTART_BLOCKS]
    done, encoded = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), options)
    if not done:
        raise ValueError("OpenCV could not compress it")
    return encoded.tobytes()


def _resized(image: np.ndarray, width: int, height: int) -> np.ndarray:
    from PIL import Image

    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BOX))


def _jpeg(image: np.ndarray, quality: int) -> bytes:
    import io

    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=quality, restart_marker_blocks=_RESTART_BLOCKS)
    return file.getvalue()
