import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparselt.data import Shard, sample_order
from sparselt.data.order import batches_of, steps_in
from sparselt.errors import DataError


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 2**64 - 1), epoch=st.integers(0, 10_000), count=st.integers(0, 400))
def test_order_is_a_permutation_and_repeats(seed, epoch, count):
    order = sample_order(seed, epoch, count)
    assert order.dtype == np.int64
    assert sorted(order) == list(range(count))
    assert np.array_equal(order, sample_order(seed, epoch, count))


def test_order_changes_with_seed_and_with_epoch():
    first = sample_order(0, 0, 100)
    assert not np.array_equal(first, sample_order(1, 0, 100))
    assert not np.array_equal(first, sample_order(0, 1, 100))


def test_order_of_this_version_is_the_order_of_every_version():
    assert sample_order(0, 0, 8).tolist() == [4, 0, 3, 7, 1, 6, 2, 5]


def test_every_sample_stands_in_every_place_equally_often():
    places = np.stack([np.argsort(sample_order(7, epoch, 10)) for epoch in range(4000)])
    counts = np.stack([np.bincount(places[:, sample], minlength=10) for sample in range(10)])
    assert abs(counts - 400).max() < 5 * np.sqrt(400 * 0.9)


def test_starting_later_gives_the_same_batches_and_drops_the_incomplete_one():
    order = sample_order(0, 0, 23)
    whole = batches_of(order, 5)
    assert whole.shape == (4, 5)
    assert np.array_equal(batches_of(order, 5, start_step=3), whole[3:])
    assert batches_of(order, 5, start_step=4).shape == (0, 5)


@pytest.mark.parametrize("start_step", [-1, 5])
def test_start_step_outside_the_epoch_is_refused(start_step):
    with pytest.raises(DataError, match="it has 4 steps"):
        batches_of(sample_order(0, 0, 23), 5, start_step)


@pytest.mark.parametrize("batch_size", [0, 24])
def test_batch_size_that_does_not_fit_is_refused(batch_size):
    with pytest.raises(DataError, match="23 samples"):
        steps_in(23, batch_size)


@settings(deadline=None, max_examples=80)
@given(st.data())
def test_shares_of_all_ranks_are_the_batch_of_one_process_in_order(data):
    world = data.draw(st.integers(1, 9))
    batch_size = data.draw(st.integers(world, 40))
    order = sample_order(3, 0, data.draw(st.integers(batch_size, 200)))
    start = data.draw(st.integers(0, len(order) // batch_size))
    shares = [batches_of(order, batch_size, start, Shard(rank, world)) for rank in range(world)]
    assert np.array_equal(np.concatenate(shares, axis=1), batches_of(order, batch_size, start))
    sizes = [share.shape[1] for share in shares]
    assert min(sizes) >= 1 and max(sizes) - min(sizes) <= 1


def test_rank_that_is_not_there_or_would_have_nothing_is_refused():
    for rank, world in ((-1, 2), (2, 2), (0, 0)):
        with pytest.raises(DataError, match="processes"):
            Shard(rank, world)
    with pytest.raises(DataError, match="3 samples cannot be shared by 4 processes"):
        Shard(0, 4).share(3)


def test_process_without_torch_distributed_is_the_only_one():
    assert Shard.current() == Shard() == Shard(0, 1)
