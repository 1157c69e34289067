"""The file format, held to FFCV's own writer and reader."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from sparselt.data import Beton, Digits, ImageFolder, SyntheticImages
from sparselt.data.beton import LARGEST_PAGE, SMALLEST_PAGE, Pages, SampleIndexError, page_size_for
from sparselt.data.encoding import write_beton
from sparselt.data.ffcv_bridge import require_ffcv
from sparselt.errors import DataError


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """Two classes of noise whose sides, formats and colour modes differ; one is larger than max_resolution."""
    root, random = tmp_path_factory.mktemp("photographs"), np.random.default_rng(1)
    modes = ("RGB", "L", "RGBA", "CMYK")
    for split, count in (("train", 40), ("val", 2)):
        for name in ("ant", "bee"):
            (root / split / name).mkdir(parents=True)
            for index in range(count):
                pixels = random.integers(0, 256, (24 + 7 * index, 400 - 3 * index, 3), dtype=np.uint8)
                picture = Image.fromarray(pixels).convert(modes[index % 4])
                picture.save(root / split / name / f"{index}.{('png', 'jpg')[modes[index % 4] != 'RGBA']}")
    return root


def ffcvs_own(source, path, field, page_size):
    """The file as FFCV's DatasetWriter writes it with one process."""
    ffcv = require_ffcv()
    samples = source.samples("train")
    fields = {"image": field, "label": ffcv.fields.IntField()}
    writer = ffcv.writer.DatasetWriter(str(path), fields, page_size=page_size, num_workers=1)
    writer.from_indexed_dataset(samples)
    return path.read_bytes()


def ours(source, path, workers=1):
    write_beton(source, source.samples("train"), path, workers=workers)
    return path.read_bytes()


def test_arrays_are_written_to_the_byte_as_ffcv_writes_them(tmp_path):
    import ffcv.fields

    field = ffcv.fields.NDArrayField(np.dtype("uint8"), (1, 8, 8))
    assert ours(Digits(), tmp_path / "ours") == ffcvs_own(Digits(), tmp_path / "ffcv", field, SMALLEST_PAGE)


@pytest.mark.parametrize(("share", "mode"), [(1.0, "jpg"), (0.0, "raw")])
def test_pictures_are_written_to_the_byte_as_ffcv_writes_them(photographs, tmp_path, share, mode, monkeypatch):
    """But for the restart markers in a JPEG. The raw ones fill more than one page."""
    import ffcv.fields

    monkeypatch.setattr("sparselt.data.pixels._RESTART_BLOCKS", 0)
    source = ImageFolder(str(photographs), max_resolution=300, jpeg_share=share, quality=80)
    field = ffcv.fields.RGBImageField(write_mode=mode, max_resolution=300, jpeg_quality=80)
    expected = ffcvs_own(source, tmp_path / "ffcv", field, 4 * SMALLEST_PAGE)
    assert ours(source, tmp_path / "ours") == expected
    assert mode == "jpg" or len(expected) > 8 * SMALLEST_PAGE


@pytest.mark.parametrize("workers", [2, 3])
def test_file_is_the_same_whatever_the_number_of_processes(photographs, tmp_path, workers):
    for source in (
        ImageFolder(str(photographs), max_resolution=300, jpeg_share=0.3),
        SyntheticImages(333, 1, classes=3, height=8, width=9, storage="raw"),
    ):
        assert ours(source, tmp_path / "one") == ours(source, tmp_path / "several", workers)


def test_reader_gives_back_every_array_and_label(tmp_path):
    source = SyntheticImages(50, 1, classes=3, height=5, width=7, channels=2, storage="raw")
    ours(source, tmp_path / "file")
    beton = Beton(tmp_path / "file")
    assert (len(beton), beton.field, beton.shape) == (50, "ndarray", (2, 5, 7))
    for index, (image, label) in enumerate(source.samples("train")):
        assert np.array_equal(beton.image(index), image)
        assert beton.labels[index] == label


def test_reader_gives_back_raw_pictures_and_decodes_the_others(photographs, tmp_path):
    for share, most in ((0.0, 0), (1.0, 70)):
        source = ImageFolder(str(photographs), jpeg_share=share, quality=100)
        ours(source, tmp_path / "file")
        beton, samples = Beton(tmp_path / "file"), source.samples("train")
        assert len(beton) == len(samples) == 80
        for index in (0, 17, 79):
            image, label = samples[index]
            assert beton.labels[index] == label
            assert np.abs(beton.image(index).astype(int) - image).mean() <= most


def test_reader_agrees_with_ffcvs_on_a_file_that_ffcv_wrote_with_several_processes(photographs, tmp_path):
    ffcv = require_ffcv()
    source, path = ImageFolder(str(photographs)), tmp_path / "file"
    fields = {"image": ffcv.fields.RGBImageField(write_mode="raw"), "label": ffcv.fields.IntField()}
    ffcv.writer.DatasetWriter(str(path), fields, num_workers=2).from_indexed_dataset(source.samples("train"))
    for index in (0, 41, 79):
        assert np.array_equal(Beton(path).image(index), source.samples("train")[index][0])


@pytest.mark.parametrize("index", [-1, 4, 10**9])
def test_index_out_of_range_is_named_everywhere(tmp_path, photographs, index):
    source = SyntheticImages(4, 4, classes=2, height=5, width=7, storage="raw")
    ours(source, tmp_path / "file")
    folder = ImageFolder(str(photographs))
    for samples in (source.samples("test"), folder.samples("test")):
        with pytest.raises(SampleIndexError, match=rf"no sample {index}: it holds 4, 0 to 3"):
            samples[index]
    for take in (Beton(tmp_path / "file").image, Beton(tmp_path / "file").stored):
        with pytest.raises(SampleIndexError, match=rf"no sample {index}: it holds 4, 0 to 3"):
            take(index)
    with pytest.raises(SampleIndexError):
        Digits().samples("test")[500]


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:100],
        lambda data: data[:30] + b"\xff" + data[31:],
        lambda data: data[:8] + (2**60).to_bytes(8, "little") + data[16:],
        lambda data: data[:16] + (2**62).to_bytes(8, "little") + data[24:],
        lambda data: data[:24] + b"\x09" + data[25:],
        lambda data: b"",
        lambda data: b"\x89PNG" * 100,
    ],
    ids=["short", "name", "count", "allocations", "kind of field", "empty", "foreign"],
)
def test_reader_refuses_a_damaged_file(tmp_path, damage):
    path = tmp_path / "file"
    ours(SyntheticImages(4, 4, classes=2, height=5, width=7, storage="raw"), path)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DataError, match="is not a"):
        Beton(path)


def test_reader_refuses_a_sample_outside_the_file_and_a_broken_jpeg(tmp_path):
    path = tmp_path / "file"
    ours(SyntheticImages(4, 4, classes=2, height=40, width=40), path)
    whole = path.read_bytes()
    beton = Beton(path)
    start = len(whole) - 8 - 3 * 24  # the address and the size of sample 0 among the allocations
    address = int.from_bytes(whole[start - 8 : start], "little")
    path.write_bytes(whole[:address] + bytes(64) + whole[address + 64 :])
    with pytest.raises(DataError, match="JPEG data of sample 0 is broken"):
        Beton(path).image(0)
    path.write_bytes(whole[:start] + (2**40).to_bytes(8, "little") + whole[start + 8 :])
    with pytest.raises(DataError, match="sample 0 lies outside the file"):
        Beton(path).image(0)
    assert beton.image(1).shape == (40, 40, 3)


@settings(deadline=None, max_examples=60)
@given(sizes=st.lists(st.integers(1, SMALLEST_PAGE), max_size=40), capacity=st.integers(0, 10**6))
def test_no_sample_crosses_a_page_or_another_and_none_stands_in_the_table(sizes, capacity):
    pages = Pages("ndarray", max(capacity, len(sizes)), SMALLEST_PAGE)
    end = pages.start
    assert pages.start >= 24 + 2 * 1041 + 16 * capacity
    for size in sizes:
        address = pages.place(size)
        assert address >= end
        assert address // SMALLEST_PAGE == (address + size - 1) // SMALLEST_PAGE
        end = address + size
    assert end <= pages.end < end + SMALLEST_PAGE


@pytest.mark.parametrize("size", [0, SMALLEST_PAGE + 1])
def test_sample_that_fits_no_page_is_refused(size):
    with pytest.raises(ValueError, match="do not fit a page"):
        Pages("ndarray", 1, SMALLEST_PAGE).place(size)


@settings(deadline=None)
@given(size=st.integers(1, LARGEST_PAGE))
def test_page_holds_the_image_and_is_a_power_of_two(size):
    page = page_size_for((1, 1, size))
    assert page >= max(size, SMALLEST_PAGE) and page & (page - 1) == 0 and page <= LARGEST_PAGE
