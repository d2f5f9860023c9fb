"""Each remedy for imbalance is the published formula, and several together do not correct twice."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.utils.class_weight import compute_class_weight
from torch.nn import functional as F  # noqa: N812 - torch's own convention

from steadylens.training.imbalance import (
    REMEDIES,
    as_tensor,
    balance,
    class_weights,
    log_prior,
    loss_of,
    minority_shares,
    natural_offsets,
)

COUNTS = np.array([1000, 100, 10])
ONES, ZEROS = torch.ones(3), torch.zeros(3)

counts_of_classes = st.lists(st.integers(1, 10**6), min_size=2, max_size=12).map(np.array)
degrees = st.floats(0, 1)


@given(st.lists(st.integers(1, 60), min_size=2, max_size=8))
def test_class_weights_are_those_of_scikit_learn(counts: list[int]) -> None:
    labels = np.repeat(np.arange(len(counts)), counts)
    expected = compute_class_weight("balanced", classes=np.arange(len(counts)), y=labels)
    remedy = balance(np.array(counts), "class-weights", 0.0, 1.0)
    assert remedy.weights == pytest.approx(expected)


@given(counts_of_classes, st.sampled_from(REMEDIES), degrees, st.sampled_from([0.0, 1.0]))
def test_every_balance_keeps_its_promises(
    counts: NDArray[np.int64], remedy: str, degree: float, base_strength: float
) -> None:
    result = balance(counts, remedy, degree, base_strength)
    assert result.shares.sum() == pytest.approx(1)
    assert (result.shares * result.weights).sum() == pytest.approx(1), "weights are 1 on average over an epoch"
    assert (result.strengths >= base_strength - 1e-9).all()
    for part in (result.shares, result.strengths, result.weights, result.offsets):
        assert part.shape == counts.shape
        assert np.isfinite(part).all()


@given(counts_of_classes, degrees)
def test_no_remedy_leaves_everything_as_it_is_but_the_minority_augmentation(
    counts: NDArray[np.int64], degree: float
) -> None:
    result = balance(counts, "none", degree, 1.0)
    assert (result.weights == 1).all()
    assert (result.offsets == 0).all()
    assert result.shares == pytest.approx(minority_shares(counts, degree))


def test_without_minority_augmentation_shares_are_the_datas_own() -> None:
    for remedy in ("none", "class-weights", "logit-adjust"):
        result = balance(COUNTS, remedy, 0.0, 1.0)
        assert result.shares == pytest.approx(COUNTS / 1110)
        assert result.strengths.tolist() == [1, 1, 1]


def test_oversampling_draws_all_classes_equally_often() -> None:
    result = balance(COUNTS, "oversample", 0.0, 1.0)
    assert result.shares == pytest.approx([1 / 3] * 3)
    assert result.weights.tolist() == [1, 1, 1]
    assert result.offsets.tolist() == [0, 0, 0]
    assert result.strengths.tolist() == [1, 1, 1]


def test_what_is_drawn_equally_is_not_corrected_again() -> None:
    """Full minority augmentation draws like oversampling: weights become 1, and offsets equal, which is none."""
    assert balance(COUNTS, "class-weights", 1.0, 1.0).weights == pytest.approx([1, 1, 1])
    assert np.ptp(balance(COUNTS, "logit-adjust", 1.0, 1.0).offsets) == pytest.approx(0)
    assert balance(COUNTS, "oversample", 1.0, 1.0).shares == pytest.approx([1 / 3] * 3)


def test_what_is_drawn_more_often_is_corrected_for_what_is_left() -> None:
    shares = np.sqrt(COUNTS) / np.sqrt(COUNTS).sum()
    assert balance(COUNTS, "class-weights", 0.5, 1.0).weights == pytest.approx(1 / (3 * shares))
    assert balance(COUNTS, "logit-adjust", 0.5, 1.0).offsets == pytest.approx(np.log(shares))


def test_minority_shares_go_from_the_datas_own_to_equal() -> None:
    assert minority_shares(COUNTS, 0.0) == pytest.approx(COUNTS / 1110)
    root = np.sqrt([1000, 100, 10])
    assert minority_shares(COUNTS, 0.5) == pytest.approx(root / root.sum())
    assert minority_shares(COUNTS, 1.0) == pytest.approx([1 / 3] * 3)
    rarest = [minority_shares(COUNTS, degree)[2] for degree in np.linspace(0, 1, 9)]
    assert (np.diff(rarest) > 0).all()


def test_minority_strengths_grow_with_rarity_and_with_the_degree() -> None:
    weak, strong = balance(COUNTS, "none", 0.5, 1.0).strengths, balance(COUNTS, "none", 1.0, 1.0).strengths
    for strengths in (weak, strong):
        assert strengths[0] == pytest.approx(1), "the largest class keeps its own"
        assert (np.diff(strengths) > 0).all()
    assert (strong[1:] > weak[1:]).all()
    # Ten and a hundred copies of an image for one of the largest class: half the decimal logarithm more.
    assert strong == pytest.approx([1, 1.5, 2])
    assert balance(COUNTS, "none", 1.0, 0.0).strengths == pytest.approx([0, 0.5, 1])


def test_offsets_are_the_logarithm_of_the_prior() -> None:
    assert balance(COUNTS, "logit-adjust", 0.0, 1.0).offsets == pytest.approx(np.log(COUNTS / 1110))
    assert class_weights(np.array([0.5, 0.25, 0.25])) == pytest.approx([2 / 3, 4 / 3, 4 / 3])
    assert log_prior(np.array([0.5, 0.25, 0.25])) == pytest.approx(-np.log([2, 4, 4]))


def test_the_adjusted_loss_is_that_of_menon_et_al_by_hand() -> None:
    """Equation 10: log(1 + sum over y' != y of pi(y') / pi(y) * exp(f(y') - f(y)))."""
    prior = np.array([0.9, 0.09, 0.01])
    logits = np.array([[2.0, -1.0, 0.5], [0.0, 3.0, 1.0]])
    labels = [2, 0]
    by_hand = [
        np.log1p(sum(prior[o] / prior[y] * np.exp(row[o] - row[y]) for o in range(3) if o != y))
        for row, y in zip(logits, labels, strict=True)
    ]
    offsets = as_tensor(log_prior(prior), torch.device("cpu"))
    got = loss_of(torch.tensor(logits), torch.tensor(labels), ONES, offsets, 0.0)
    assert got.tolist() == pytest.approx(by_hand, rel=1e-5)


def test_the_weighted_loss_by_hand() -> None:
    logits, labels = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 0.0]]), torch.tensor([1, 2])
    got = loss_of(logits, labels, torch.tensor([1.0, 2.0, 5.0]), ZEROS, 0.0)
    assert got.tolist() == pytest.approx([2 * np.log(np.e + 2), 5 * np.log(3)], rel=1e-6)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.9])
def test_label_smoothing_is_that_of_torch(smoothing: float) -> None:
    logits = torch.randn(20, 3, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(20) % 3
    got = loss_of(logits, labels, ONES, ZEROS, smoothing)
    assert got.shape == (20,)
    assert torch.allclose(got.mean(), F.cross_entropy(logits, labels, label_smoothing=smoothing))
    log_p = logits.log_softmax(1)
    by_hand = -(1 - smoothing) * log_p[torch.arange(20), labels] - smoothing * log_p.mean(1)
    assert torch.allclose(got, by_hand, atol=1e-6)


def test_the_loss_is_taken_in_float32() -> None:
    logits = torch.tensor([[10.0, 9.9, 0.0]], dtype=torch.bfloat16)
    got = loss_of(logits, torch.tensor([0]), ONES, torch.full((3,), 1e-3), 0.0)
    assert got.dtype == torch.float32
    assert torch.allclose(got, F.cross_entropy(logits.float(), torch.tensor([0])))


def test_prior_adjustment_makes_bare_logits_those_of_balanced_classes() -> None:
    """Where inputs say nothing, the loss is lowest with equal logits, however imbalanced the labels are."""
    labels = torch.repeat_interleave(torch.arange(3), torch.tensor([90, 9, 1]))
    offsets = torch.tensor([0.9, 0.09, 0.01]).log()
    logits = torch.zeros(3, requires_grad=True)
    loss_of(logits.expand(100, 3), labels, ONES, offsets, 0.0).mean().backward()  # type: ignore[no-untyped-call]
    assert logits.grad is not None
    assert logits.grad.abs().max() < 1e-6


@pytest.mark.parametrize("remedy", REMEDIES)
@pytest.mark.parametrize("minority_augment", [0.0, 0.5])
def test_natural_offsets_bring_back_the_prior_of_the_data(remedy: str, minority_augment: float) -> None:
    """Logits that say nothing of an image give, with the offsets, what the loss would teach without any remedy."""
    counts = np.array([900, 90, 10])
    made = balance(counts, remedy, minority_augment, 1.0)
    # The best constant logits under the loss: their offset softmax is the weighted share of what is drawn.
    learned = np.log(made.shares * made.weights) - made.offsets
    found = np.exp(learned + natural_offsets(made, counts))
    np.testing.assert_allclose(found / found.sum(), counts / counts.sum())
