"""Several processes read what one would: the same samples, the same crops, and every test sample once."""

import hashlib
import multiprocessing
from functools import partial

import pytest
import torch

from sparselt.data import (
    CenterCrop,
    Normalize,
    PadCrop,
    RandomResizedCrop,
    Shard,
    StreamingEvalLoader,
    StreamingTrainLoader,
    SyntheticImages,
    eval_loader,
    open_dataset,
    train_loader,
    write_dataset,
)
from sparselt.errors import DataError

MEAN = STD = (0.5, 0.5, 0.5)
SEEDS = {"order_seed": 1, "augmentation_seed": 2}


@pytest.fixture(scope="module")
def arrays(tmp_path_factory):
    """55 and 17 samples: no world size but 1 divides them."""
    folder = tmp_path_factory.mktemp("arrays")
    write_dataset(SyntheticImages(55, 17, classes=3, height=12, width=10, storage="raw"), folder)
    return open_dataset(folder)


@pytest.fixture(params=["resident", "streamed arrays", "pictures"])
def loaders(request, arrays, textures):
    """(training loader of a shard, evaluation loader of a shard) of each kind."""
    if request.param == "pictures":
        # Pillow: FFCV's loaders take a second to make, and which samples they are asked for is decided before.
        train = partial(StreamingTrainLoader, textures, 7, **SEEDS, transform=RandomResizedCrop(24), reader="pillow")
        return train, partial(StreamingEvalLoader, textures, CenterCrop(24), 4, reader="pillow")
    engine = "resident" if request.param == "resident" else "streaming"
    train = partial(train_loader, arrays, 7, **SEEDS, transform=PadCrop(2, True, MEAN, STD), engine=engine)
    return train, partial(eval_loader, arrays, Normalize(MEAN, STD), 4, engine=engine)


@pytest.mark.parametrize("world", [2, 3])
def test_ranks_read_the_batches_of_one_process(loaders, world):
    train, _ = loaders
    for epoch, start in ((0, 0), (1, 3)):
        alone = list(train().epoch(epoch, start))
        ranks = [train(shard=Shard(rank, world)) for rank in range(world)]
        assert {rank.steps_per_epoch for rank in ranks} == {train().steps_per_epoch}
        shares = [list(rank.epoch(epoch, start)) for rank in ranks]
        for step, whole in enumerate(alone):
            for part, expected in enumerate(whole):
                assert torch.equal(torch.cat([share[step][part] for share in shares]), expected)


@pytest.mark.parametrize("world", [2, 3])
def test_ranks_evaluate_every_sample_once(loaders, world):
    _, evaluation = loaders
    alone = [torch.cat(parts) for parts in zip(*evaluation(), strict=True)]
    ranks = [evaluation(shard=Shard(rank, world)) for rank in range(world)]
    batches = [batch for rank in ranks for batch in rank]
    assert len(batches) == sum(len(rank) for rank in ranks)
    for part, expected in enumerate(alone):
        assert torch.equal(torch.cat([batch[part] for batch in batches]), expected)
    assert sorted(alone[2].tolist()) == list(range(len(alone[2])))


def test_batch_that_leaves_a_rank_without_samples_is_refused(loaders):
    train, evaluation = loaders
    with pytest.raises(DataError, match="7 samples cannot be shared by 8 processes"):
        train(shard=Shard(0, 8))
    with pytest.raises(DataError, match="cannot be shared by 40 processes"):
        evaluation(shard=Shard(0, 40))


def read_as_rank(rank, world, rendezvous, dataset, results):
    from torch import distributed

    distributed.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=world)
    train = train_loader(dataset, 7, **SEEDS, transform=PadCrop(2, True, MEAN, STD))
    seen = [(int(i), digest(image)) for batch in train.epoch(4, 2) for i, image in zip(batch[2], batch[0], strict=True)]
    tested = eval_loader(dataset, Normalize(MEAN, STD), 4)
    indices = torch.cat([batch.indices for batch in tested])
    count = torch.stack([torch.tensor(len(indices)), indices.sum()])
    distributed.all_reduce(count)
    gathered = [None] * world
    distributed.all_gather_object(gathered, seen)
    if rank == 0:
        results.put((gathered, count.tolist()))
    distributed.barrier()
    distributed.destroy_process_group()


def digest(image):
    return hashlib.sha256(image.contiguous().numpy().tobytes()).hexdigest()


def test_processes_of_a_process_group_share_one_order(arrays, tmp_path):
    context = multiprocessing.get_context("fork")
    results, world = context.Queue(), 3
    arguments = (world, tmp_path / "rendezvous", arrays, results)
    processes = [context.Process(target=read_as_rank, args=(rank, *arguments), daemon=True) for rank in range(world)]
    for process in processes:
        process.start()
    gathered, (tested, places) = results.get(timeout=60)
    for process in processes:
        process.join(10)
        assert process.exitcode == 0
    alone = train_loader(arrays, 7, **SEEDS, transform=PadCrop(2, True, MEAN, STD))
    expected = {int(i): digest(im) for batch in alone.epoch(4, 2) for i, im in zip(batch[2], batch[0], strict=True)}
    seen = [pair for rank in gathered for pair in rank]
    assert len(seen) == len(expected) == 5 * 7 and dict(seen) == expected
    assert (tested, places) == (17, 17 * 16 // 2)


@pytest.mark.parametrize(
    ("rank", "world_size", "words"), [(0.5, 2, "rank is 0.5"), (0, 0, "world_size is 0"), (2, 2, "rank 2 of 2")]
)
def test_what_is_no_rank_is_refused(rank, world_size, words):
    with pytest.raises(DataError, match=words):
        Shard(rank, world_size)
