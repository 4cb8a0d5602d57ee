import numpy as np
import pytest

from get3d_model.data.sampler import InfiniteSampler


@pytest.mark.parametrize(
    ("size", "world_size", "batch"), [(24, 1, 4), (24, 3, 4), (25, 2, 4), (7, 2, 5), (3, 2, 8)]
)
def test_every_epoch_draws_every_sample_once_over_all_ranks(size, world_size, batch):
    samplers = [InfiniteSampler(size, 5, rank, world_size) for rank in range(world_size)]
    steps = 4 * size
    # Rank r takes every world_size-th element of the common stream.
    stream = np.stack(
        [np.concatenate([sampler.batch(step, batch) for step in range(steps)]) for sampler in samplers],
        axis=1,
    ).reshape(-1)
    epochs = stream[: len(stream) // size * size].reshape(-1, size)
    assert len(epochs) >= 4
    np.testing.assert_array_equal(np.sort(epochs, axis=1), np.tile(np.arange(size), (len(epochs), 1)))
    if size > 3:
        assert len({tuple(epoch) for epoch in epochs[:4]}) == 4


def test_ranks_are_disjoint_within_an_epoch():
    size, world_size, batch = 96, 4, 8
    drawn = [
        {
            int(i)
            for step in range(size // world_size // batch)
            for i in InfiniteSampler(size, 1, r, world_size).batch(step, batch)
        }
        for r in range(world_size)
    ]
    assert sum(len(part) for part in drawn) == size
    assert set.union(*drawn) == set(range(size))


def test_a_batch_depends_on_the_step_alone():
    forward = InfiniteSampler(50, 3, 1, 2)
    expected = [forward.batch(step, 7) for step in range(60)]
    for step in (59, 0, 31, 30, 7):
        np.testing.assert_array_equal(InfiniteSampler(50, 3, 1, 2).batch(step, 7), expected[step])
        np.testing.assert_array_equal(forward.batch(step, 7), expected[step])


def test_the_total_batch_does_not_depend_on_the_number_of_ranks():
    one = InfiniteSampler(1000, 9)
    four = [InfiniteSampler(1000, 9, rank, 4) for rank in range(4)]
    for step in (0, 13, 100):
        together = np.concatenate([sampler.batch(step, 8) for sampler in four])
        assert set(together) == set(one.batch(step, 32))


def test_seeds_and_epochs_are_shuffled():
    order = InfiniteSampler(2000, 0).batch(0, 2000)
    assert not np.array_equal(order, InfiniteSampler(2000, 1).batch(0, 2000))
    assert not np.array_equal(order, InfiniteSampler(2000, 0).batch(1, 2000))
    # A uniform permutation has a rank correlation of 0 +- 1 / sqrt(n) with the identity.
    assert abs(np.corrcoef(order, np.arange(2000))[0, 1]) < 0.1


def test_golden_order_does_not_change_between_versions():
    # Recorded once: a change here breaks bit-for-bit resumption of running trainings.
    assert InfiniteSampler(10, 42, 1, 2).batch(3, 4).tolist() == [9, 5, 1, 8]


def test_bad_arguments():
    with pytest.raises(ValueError, match="dataset_size"):
        InfiniteSampler(0, 0)
    with pytest.raises(ValueError, match="rank"):
        InfiniteSampler(5, 0, 2, 2)
    with pytest.raises(ValueError, match="step"):
        InfiniteSampler(5, 0).batch(-1, 2)
