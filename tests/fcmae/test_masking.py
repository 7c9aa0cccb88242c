import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fcmae.toys import generator
from leuk_lib.fcmae.masking import VisiblePatches, n_visible, random_masks, upsample_mask


@given(st.integers(1, 9), st.integers(1, 9), st.floats(0.05, 0.95), st.integers(0, 10**6))
def test_the_ratio_is_exact_for_every_grid_and_sample(gh, gw, ratio, seed):
    if gh * gw < 2:
        with pytest.raises(ValueError, match="at least 2"):
            n_visible(gh * gw, ratio)
        return
    masks = random_masks(5, (gh, gw), ratio, generator(seed))
    assert masks.shape == (5, gh, gw)
    counts = masks.flatten(1).sum(1)
    assert (counts == n_visible(gh * gw, ratio)).all()
    assert 1 <= counts[0] <= gh * gw - 1
    assert abs(float(counts[0]) - (1 - ratio) * gh * gw) <= 1


def test_masks_differ_between_samples_and_repeat_with_the_seed():
    first, again = (random_masks(64, (7, 7), 0.6, generator(3)) for _ in range(2))
    assert torch.equal(first, again)
    assert len({tuple(m.flatten().tolist()) for m in first}) == 64
    assert not torch.equal(first, random_masks(64, (7, 7), 0.6, generator(4)))


def test_every_patch_is_hidden_equally_often():
    share = random_masks(4000, (4, 4), 0.6, generator()).float().mean(0)
    assert (share - 6 / 16).abs().max() < 0.04


@pytest.mark.parametrize("ratio", [0.0, 1.0, -1.0])
def test_a_ratio_that_hides_nothing_or_everything_is_refused(ratio):
    with pytest.raises(ValueError, match="mask_ratio"):
        n_visible(16, ratio)


@given(st.integers(1, 4), st.integers(1, 3), st.integers(2, 4), st.sampled_from([1, 2, 4]), st.integers(0, 999))
def test_scatter_then_gather_returns_the_tokens_and_gather_then_scatter_masks(batch, gh, gw, r, seed):
    mask = random_masks(batch, (gh, gw), 0.5, generator(seed))
    patches = VisiblePatches.from_mask(mask)
    x = torch.randn(batch, 5, gh * r, gw * r, generator=generator(seed))
    tokens = patches.gather(x)
    assert tokens.shape == (batch, int(mask[0].sum()), r, r, 5)
    assert torch.equal(patches.gather(patches.scatter(tokens)), tokens)
    assert torch.equal(patches.scatter(tokens), x * upsample_mask(mask, r)[:, None])


def test_uneven_masks_are_refused():
    mask = torch.zeros(2, 2, 2, dtype=torch.bool)
    mask[0, 0, 0] = mask[1] = True
    with pytest.raises(ValueError, match="same number"):
        VisiblePatches.from_mask(mask)
    with pytest.raises(ValueError, match="bool"):
        VisiblePatches.from_mask(mask.float())
