"""The loaders on a CUDA device against themselves on the CPU. `make gpu` runs these; they need no FFCV."""

import numpy as np
import pytest
import torch

from sparselt.data import (
    CenterCrop,
    Normalize,
    PadCrop,
    RandomResizedCrop,
    ResidentData,
    ResidentEvalLoader,
    ResidentTrainLoader,
    Shard,
    StreamingEvalLoader,
    StreamingTrainLoader,
    SyntheticImages,
    engine_for,
    open_dataset,
    write_dataset,
)
from sparselt.data.copying import CudaCopies, on_device

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]

SEEDS = {"order_seed": 1, "augmentation_seed": 2**63 + 5}
NORMAL = {"mean": (0.4, 0.5, 0.6), "std": (0.2, 0.3, 0.25)}


@pytest.fixture(scope="module")
def arrays(tmp_path_factory):
    folder = tmp_path_factory.mktemp("arrays")
    write_dataset(SyntheticImages(500, 130, classes=4, height=32, width=32, storage="raw"), folder)
    return open_dataset(folder)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    write_dataset(SyntheticImages(300, 70, classes=4, height=96, width=120), folder)
    return open_dataset(folder)


def assert_alike(on_gpu, on_cpu):
    """The same samples; pixels to the rounding of float32, whose operations a GPU may fuse."""
    assert len(on_gpu) == len(on_cpu)
    for found, expected in zip(on_gpu, on_cpu, strict=True):
        assert all(tensor.device.type == "cuda" for tensor in found)
        assert found.images.is_contiguous(memory_format=torch.channels_last)
        assert torch.equal(found.labels.cpu(), expected.labels) and torch.equal(found.indices.cpu(), expected.indices)
        torch.testing.assert_close(found.images.cpu(), expected.images, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("engine", ["resident", "streaming"])
@pytest.mark.parametrize("shard", [Shard(), Shard(1, 3)], ids=["alone", "one of three"])
def test_arrays_are_augmented_as_on_the_cpu(arrays, engine, shard):
    loaders = []
    for device in ("cuda", "cpu"):
        options = {**SEEDS, "transform": PadCrop(4, True, **NORMAL), "device": device, "shard": shard}
        if engine == "resident":
            loaders.append(ResidentTrainLoader(ResidentData.read(arrays), 64, **options))
        else:
            loaders.append(StreamingTrainLoader(arrays, 64, **options, threads=2))
    for epoch, start in ((0, 0), (3, 5), (2**20, 7)):
        assert_alike(*(list(loader.epoch(epoch, start)) for loader in loaders))


def test_pictures_are_cropped_as_on_the_cpu(pictures):
    on_gpu, on_cpu = (
        StreamingTrainLoader(
            pictures, 32, **SEEDS, transform=RandomResizedCrop(48), device=device, threads=2, reader="pillow"
        )
        for device in ("cuda", "cpu")
    )
    assert_alike(list(on_gpu.epoch(1)), list(on_cpu.epoch(1)))
    assert_alike(list(on_gpu.epoch(1, 7)), list(on_cpu.epoch(1))[7:])


def test_evaluation_shows_what_it_shows_on_the_cpu(arrays, pictures):
    resident, normal = ResidentData.read(arrays), Normalize(**NORMAL)
    for make in (
        lambda device: ResidentEvalLoader(resident, normal, 64, device),
        lambda device: StreamingEvalLoader(arrays, normal, 64, device),
        lambda device: StreamingEvalLoader(pictures, CenterCrop(48), 32, device, reader="pillow"),
    ):
        assert_alike(list(make("cuda")), list(make("cpu")))


def test_batches_arrive_whole_while_the_device_is_busy(pictures):
    """Copies run beside the work that is queued: nothing may be read before it has come or written over before."""
    loader = StreamingTrainLoader(
        pictures, 8, **SEEDS, transform=RandomResizedCrop(96), device="cuda", threads=2, reader="pillow"
    )
    expected = [
        batch.images.sum(dtype=torch.float64)
        for batch in StreamingTrainLoader(
            pictures, 8, **SEEDS, transform=RandomResizedCrop(96), threads=2, reader="pillow"
        ).epoch(0)
    ]
    work, sums = torch.randn(2048, 2048, device="cuda"), []
    for batch in loader.epoch(0):
        for _ in range(20):
            work = torch.tanh(work @ work)
        sums.append(batch.images.sum(dtype=torch.float64))
        del batch
    np.testing.assert_allclose(torch.stack(sums).cpu(), torch.stack(expected), rtol=1e-5, atol=1e-2)


def test_leaving_early_keeps_no_device_memory(pictures):
    loader = StreamingTrainLoader(
        pictures, 32, **SEEDS, transform=RandomResizedCrop(48), device="cuda", threads=2, reader="pillow"
    )
    held = []
    for epoch in range(20):
        batches = loader.epoch(epoch)
        next(batches)
        batches.close()
        del batches
        torch.cuda.synchronize()
        held.append(torch.cuda.memory_allocated())
    assert len(set(held[2:])) == 1


def test_resident_images_are_on_the_device_once(arrays):
    resident = ResidentData.read(arrays)
    before = torch.cuda.memory_allocated()
    loaders = [
        ResidentTrainLoader(resident, 64, **SEEDS, transform=PadCrop(4, True, **NORMAL), device="cuda")
        for _ in range(4)
    ]
    assert torch.cuda.memory_allocated() - before < 2 * resident.images("train").numel()
    assert len({loader._images.data_ptr() for loader in loaders}) == 1


def test_arrays_that_fit_the_device_are_kept_there(arrays, pictures):
    assert engine_for(arrays, "cuda") == "resident" and engine_for(pictures, "cuda") == "streaming"


def test_memory_that_is_used_again_arrives_whole_through_pinned_memory():
    """Without FFCV: a reader that overwrites 64 MB for every batch, while the device is kept busy."""

    def numbered():
        memory = torch.empty(64, 2**20, dtype=torch.uint8)
        for number in range(20):
            yield [memory.fill_(number)[: 64 if number < 19 else 7], torch.full((64,), number)]

    copies = CudaCopies(torch.device("cuda"))
    busy = torch.rand(2048, 2048, device="cuda")
    for number, (images, labels) in enumerate(on_device(numbered(), copies, reuses_memory=True)):
        busy = busy @ busy / 2048
        assert images.is_cuda and len(images) == (64 if number < 19 else 7)
        assert images.unique().tolist() == [number] and labels.unique().tolist() == [number]
