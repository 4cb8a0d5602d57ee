"""The discriminator's parts against plain NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from get3d_model.networks.discriminator import Discriminator, encode_camera, minibatch_std


@pytest.fixture(scope="module")
def discriminator() -> Discriminator:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Discriminator(32, 256, 16).requires_grad_(False)


@pytest.mark.parametrize(("batch", "group"), [(1, 1), (3, 3), (4, 4), (6, 3), (8, 4), (5, 1), (7, 1)])
def test_minibatch_std(batch: int, group: int) -> None:
    """Sample b is in group b mod (batch / group); one number each, the mean deviation."""
    x = torch.randn(batch, 5, 4, 4, generator=torch.Generator().manual_seed(batch))
    result = minibatch_std(x)
    assert result.shape == (batch, 6, 4, 4)
    assert torch.equal(result[:, :5], x)
    groups = batch // group
    for b in range(batch):
        members = x.double().numpy()[b % groups :: groups]
        assert len(members) == group
        expected = np.sqrt(members.var(axis=0) + 1e-8).mean()
        np.testing.assert_allclose(result[b, 5], expected, rtol=1e-5)


def test_minibatch_std_tells_copies_from_variety(discriminator: Discriminator) -> None:
    same = torch.randn(1, 5, 4, 4).expand(4, -1, -1, -1)
    assert float(minibatch_std(same)[:, 5].max()) == pytest.approx(1e-4)
    images, angles = torch.randn(4, 4, 32, 32), torch.rand(4, 2)
    alone = discriminator(images[:1], angles[:1])[0]
    together = discriminator(images, angles)[0]
    assert not torch.allclose(alone, together[:1])


def test_camera_encoding() -> None:
    angles = torch.tensor([[0.5, 1.25], [6.0, 1.0]])
    a = angles.double().numpy()
    expected = np.concatenate(
        [np.sin(a), np.cos(a), np.sin(2 * a), np.cos(2 * a), np.sin(4 * a), np.cos(4 * a), a], axis=1
    )
    np.testing.assert_allclose(encode_camera(angles), expected, atol=1e-6)


def test_the_camera_changes_both_scores(discriminator: Discriminator) -> None:
    images = torch.randn(2, 4, 32, 32)
    first = discriminator(images, torch.tensor([[0.1, 1.0], [0.1, 1.0]]))
    for moved in ([0.9, 1.0], [0.1, 1.4]):
        second = discriminator(images, torch.tensor([moved, [0.1, 1.0]]))
        for before, after in zip(first, second, strict=True):
            assert before.shape == (2, 1)
            assert abs(float(before[0] - after[0])) > 1e-4
            assert torch.equal(before[1], after[1])


def test_colour_and_silhouette_are_scored_apart(discriminator: Discriminator) -> None:
    images, angles = torch.randn(4, 4, 32, 32), torch.rand(4, 2)
    rgb, mask = discriminator(images, angles)
    recoloured, reshaped = images.clone(), images.clone()
    recoloured[:, :3] += 1
    reshaped[:, 3:] += 1
    rgb_recoloured, mask_recoloured = discriminator(recoloured, angles)
    rgb_reshaped, mask_reshaped = discriminator(reshaped, angles)
    assert torch.equal(mask_recoloured, mask) and not torch.allclose(rgb_recoloured, rgb)
    assert torch.equal(rgb_reshaped, rgb) and not torch.allclose(mask_reshaped, mask)


@pytest.mark.parametrize("resolution", [16, 32, 64])
def test_any_resolution(resolution: int) -> None:
    scores = Discriminator(resolution, 256, 16)(torch.randn(3, 4, resolution, resolution), torch.rand(3, 2))
    assert [score.shape for score in scores] == [(3, 1), (3, 1)]


def test_half_precision_blocks_stay_close() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        discriminator = Discriminator(32, 256, 16, num_half_precision_blocks=1, clamp=256.0).requires_grad_(
            False
        )
        images, angles = torch.randn(4, 4, 32, 32), torch.rand(4, 2)
    exact, half = discriminator(images, angles), discriminator(images, angles, torch.bfloat16)
    for a, b in zip(exact, half, strict=True):
        assert b.dtype == torch.float32 and not torch.equal(a, b)
        assert torch.allclose(a, b, atol=0.05 * float(a.abs().max() + 1))


def test_the_class_is_part_of_the_condition() -> None:
    """The same picture and camera score differently as another class; without classes the names stay published."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        plain = Discriminator(32, 256, 16)
        network = Discriminator(32, 256, 16, num_classes=3).requires_grad_(False)
    assert plain.state_dict().keys() == network.state_dict().keys()
    shapes = {
        name: (tuple(tensor.shape), tuple(network.state_dict()[name].shape))
        for name, tensor in plain.state_dict().items()
        if tensor.shape != network.state_dict()[name].shape
    }
    assert shapes == {f"{p}mapping.embed.weight": ((16, 14), (16, 17)) for p in ("", "mask_")}
    image, angles = torch.randn(1, 4, 32, 32), torch.rand(1, 2)
    scores = [network(image, angles, class_B=torch.tensor([k])) for k in (0, 1, 0)]
    for first, other, again in zip(*scores, strict=True):
        assert torch.equal(first, again) and not torch.allclose(first, other)
    with pytest.raises(ValueError, match="3 classes"):
        network(image, angles)
    with pytest.raises(ValueError, match="0 classes"):
        plain(image, angles, class_B=torch.tensor([0]))
