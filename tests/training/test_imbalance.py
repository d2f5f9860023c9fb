"""Each remedy for imbalance is the published formula, and several together do not correct twice."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.utils.class_weight import compute_class_weight
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - torch's own convention

from steadylens.config import IMBALANCE
from steadylens.models.heads import SCALE
from steadylens.training.imbalance import (
    BETA,
    DEFERRED,
    Balance,
    balance,
    class_weights,
    effective_number_weights,
    ldam_margins,
    log_prior,
    minority_shares,
    natural_logits,
    objective_of,
    unfocused,
)

COUNTS = np.array([1000, 100, 10])
PLAIN = Balance(np.full(3, 1 / 3), np.ones(3), np.ones(3), np.ones(3), np.zeros(3), np.zeros(3), 0.0)
CPU = torch.device("cpu")


def loss_of(remedy: Balance, logits: Tensor, labels: Tensor, smoothing: float = 0.0, progress: float = 0.0) -> Tensor:
    return objective_of(remedy, smoothing, CPU)(logits, labels, progress)


counts_of_classes = st.lists(st.integers(1, 10**6), min_size=2, max_size=12).map(np.array)
degrees = st.floats(0, 1)


@given(st.lists(st.integers(1, 60), min_size=2, max_size=8))
def test_class_weights_are_those_of_scikit_learn(counts: list[int]) -> None:
    labels = np.repeat(np.arange(len(counts)), counts)
    expected = compute_class_weight("balanced", classes=np.arange(len(counts)), y=labels)
    remedy = balance(np.array(counts), "class-weights", 0.0, 1.0)
    assert remedy.weights == pytest.approx(expected)


@given(counts_of_classes, st.sampled_from(IMBALANCE), degrees, st.sampled_from([0.0, 1.0]))
def test_every_balance_keeps_its_promises(
    counts: NDArray[np.int64], remedy: str, degree: float, base_strength: float
) -> None:
    result = balance(counts, remedy, degree, base_strength)
    assert result.shares.sum() == pytest.approx(1)
    for weights in (result.weights, result.late_weights):
        assert (result.shares * weights).sum() == pytest.approx(1), "weights are 1 on average over an epoch"
        assert (weights > 0).all()
    assert (result.margins >= 0).all()
    assert (result.strengths >= base_strength - 1e-9).all()
    for part in (result.shares, result.strengths, result.weights, result.late_weights, result.offsets, result.margins):
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
    adjusted = replace(PLAIN, offsets=log_prior(prior))
    got = loss_of(adjusted, torch.tensor(logits), torch.tensor(labels))
    assert got.tolist() == pytest.approx(by_hand, rel=1e-5)


def test_the_weighted_loss_by_hand() -> None:
    logits, labels = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 0.0]]), torch.tensor([1, 2])
    got = loss_of(replace(PLAIN, weights=np.array([1.0, 2.0, 5.0])), logits, labels)
    assert got.tolist() == pytest.approx([2 * np.log(np.e + 2), 5 * np.log(3)], rel=1e-6)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.9])
def test_label_smoothing_is_that_of_torch(smoothing: float) -> None:
    logits = torch.randn(20, 3, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(20) % 3
    got = loss_of(PLAIN, logits, labels, smoothing)
    assert got.shape == (20,)
    assert torch.allclose(got.mean(), F.cross_entropy(logits, labels, label_smoothing=smoothing))
    log_p = logits.log_softmax(1)
    by_hand = -(1 - smoothing) * log_p[torch.arange(20), labels] - smoothing * log_p.mean(1)
    assert torch.allclose(got, by_hand, atol=1e-6)


def test_the_loss_is_taken_in_float32() -> None:
    logits = torch.tensor([[10.0, 9.9, 0.0]], dtype=torch.bfloat16)
    got = loss_of(replace(PLAIN, offsets=np.full(3, 1e-3)), logits, torch.tensor([0]))
    assert got.dtype == torch.float32
    assert torch.allclose(got, F.cross_entropy(logits.float(), torch.tensor([0])))


def test_prior_adjustment_makes_bare_logits_those_of_balanced_classes() -> None:
    """Where inputs say nothing, the loss is lowest with equal logits, however imbalanced the labels are."""
    labels = torch.repeat_interleave(torch.arange(3), torch.tensor([90, 9, 1]))
    adjusted = replace(PLAIN, offsets=np.log([0.9, 0.09, 0.01]))
    logits = torch.zeros(3, requires_grad=True)
    loss_of(adjusted, logits.expand(100, 3), labels).mean().backward()  # type: ignore[no-untyped-call]
    assert logits.grad is not None
    assert logits.grad.abs().max() < 1e-6


def test_focal_loss_is_that_of_lin_et_al_by_hand() -> None:
    """-(1 - p)^2 log p: at p = 1/2 and 9/10 of the true class 0.25 log 2 and 0.01 log(10/9)."""
    logits = torch.tensor([[0.0, 0.0, -60.0], [np.log(9.0), 0.0, -60.0], [np.log(9.0), 0.0, -60.0]])
    got = loss_of(balance(COUNTS, "focal", 0.0, 1.0), logits, torch.tensor([0, 0, 1]))
    by_hand = [0.25 * np.log(2), 0.01 * np.log(10 / 9), 0.81 * np.log(10)]
    assert got.tolist() == pytest.approx(by_hand, rel=1e-5)


@given(st.lists(st.lists(st.floats(-8, 8), min_size=3, max_size=3), min_size=1, max_size=5), st.integers(0, 2))
def test_focal_loss_is_the_published_formula(rows: list[list[float]], label: int) -> None:
    p = np.exp(rows)[:, label] / np.exp(rows).sum(1)
    got = loss_of(balance(COUNTS, "focal", 0.0, 1.0), torch.tensor(rows), torch.full((len(rows),), label))
    assert got.numpy() == pytest.approx(-((1 - p) ** 2) * np.log(p), rel=1e-3, abs=1e-5)


def test_smoothed_targets_of_the_focal_loss_are_a_mean_of_its_losses() -> None:
    focal, logits = balance(COUNTS, "focal", 0.0, 1.0), torch.randn(1, 3, generator=torch.Generator().manual_seed(0))
    each = [loss_of(focal, logits, torch.tensor([label])).item() for label in range(3)]
    got = loss_of(focal, logits, torch.tensor([1]), 0.3).item()
    assert got == pytest.approx(0.7 * each[1] + 0.3 * np.mean(each), rel=1e-5)


def test_effective_number_weights_by_hand() -> None:
    """Cui et al.: E = (1 - beta^n) / (1 - beta) = 951.67, 99.507 and 9.9955 for 1000, 100 and 10 images."""
    weights = balance(COUNTS, "effective-number", 0.0, 1.0).weights
    assert weights / weights[0] == pytest.approx([1, 951.67 / 99.507, 951.67 / 9.9955], rel=1e-4)
    assert balance(COUNTS, "effective-number", 0.0, 1.0).late_weights.tolist() == weights.tolist()


@given(counts_of_classes)
def test_effective_number_weights_are_the_published_formula(counts: NDArray[np.int64]) -> None:
    effective = np.array([sum(BETA ** np.arange(n)) if n < 100 else (1 - BETA**n) / (1 - BETA) for n in counts])
    weights = effective_number_weights(counts, counts / counts.sum())
    assert weights / weights.mean() == pytest.approx((1 / effective) / (1 / effective).mean(), rel=1e-6)


def test_with_few_images_effective_numbers_are_their_number_and_with_many_they_are_all_alike() -> None:
    few, many = np.array([40, 20, 4]), np.array([9 * 10**6, 10**6, 2 * 10**5])
    assert effective_number_weights(few, few / few.sum()) == pytest.approx(class_weights(few / few.sum()), rel=3e-3)
    assert effective_number_weights(many, many / many.sum()) == pytest.approx([1, 1, 1], rel=1e-6)


def test_effective_number_weights_do_not_correct_what_is_drawn_more_often_twice() -> None:
    """Whatever the shares, a class has the say in an epoch that the published weights give it."""
    plain, evenly = (balance(COUNTS, "effective-number", degree, 1.0) for degree in (0.0, 1.0))
    assert evenly.shares * evenly.weights == pytest.approx(plain.shares * plain.weights)
    assert np.ptp(evenly.weights) < 0.06, "hardly anything is left to correct where every class is drawn equally often"


def test_ldam_margins_by_hand() -> None:
    """Cao et al.: half a cosine for the rarest class, and 16^(1/4) = 2 times less for one of 16 times the images."""
    assert ldam_margins(np.array([1600, 100, 8100])) == pytest.approx([0.25, 0.5, 0.5 / 3])
    assert balance(np.array([1600, 100]), "ldam-drw", 0.0, 1.0).margins == pytest.approx([SCALE * 0.25, SCALE * 0.5])


@given(st.lists(st.floats(-1, 1), min_size=3, max_size=3), st.integers(0, 2))
def test_ldam_is_the_published_loss(cosines: list[float], label: int) -> None:
    """-log(exp(s (z_y - d_y)) / (exp(s (z_y - d_y)) + sum over others of exp(s z_j))) with s = 30."""
    margins = np.array([1000.0, 100.0, 10.0]) ** -0.25
    margins *= 0.5 / margins.max()
    z = 30.0 * np.array(cosines)
    own = z[label] - 30.0 * margins[label]
    others = [z[j] for j in range(3) if j != label]
    by_hand = np.log1p(np.exp(np.array(others) - own).sum())
    got = loss_of(balance(COUNTS, "ldam-drw", 0.0, 1.0), torch.tensor(z[None]), torch.tensor([label]))
    assert got.item() == pytest.approx(by_hand, rel=1e-4, abs=1e-5)


def test_re_weighting_is_deferred_to_the_last_part_of_a_training() -> None:
    remedy, logits, labels = balance(COUNTS, "ldam-drw", 0.0, 1.0), torch.zeros(3, 3), torch.arange(3)
    early = loss_of(remedy, logits, labels, progress=DEFERRED - 1e-6)
    late = loss_of(remedy, logits, labels, progress=DEFERRED)
    assert torch.equal(early, loss_of(replace(remedy, late_weights=np.ones(3)), logits, labels, progress=1.0))
    assert (late / early).tolist() == pytest.approx(balance(COUNTS, "effective-number", 0.0, 1.0).weights.tolist())
    assert [remedy.in_full(progress) for progress in (0.0, 0.79, DEFERRED, 1.0)] == [False, False, True, True]


def test_only_deferred_re_weighting_has_to_wait() -> None:
    assert [name for name in IMBALANCE if not balance(COUNTS, name, 0.0, 1.0).in_full(0.0)] == ["ldam-drw"]


def test_the_focal_losss_probabilities_are_brought_back() -> None:
    """The logits at which the expected focal loss is least give back the probabilities that it was expected over."""
    true = torch.tensor([[0.7, 0.2, 0.1], [0.96, 0.03, 0.01], [0.4, 0.35, 0.25]], dtype=torch.float64)
    logits = true.log().clone().requires_grad_()
    optimizer = torch.optim.LBFGS([logits], max_iter=500, tolerance_grad=1e-12, line_search_fn="strong_wolfe")

    def expected() -> Tensor:
        optimizer.zero_grad()
        log_p = logits.log_softmax(1)
        loss = -(true * (1 - log_p.exp()) ** 2 * log_p).sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimizer.step(expected)  # type: ignore[no-untyped-call]
    learned = logits.detach().numpy()
    assert np.abs(np.exp(learned) / np.exp(learned).sum(1, keepdims=True) - true.numpy()).max() > 0.05
    found = np.exp(unfocused(learned, 2.0))
    assert found / found.sum(1, keepdims=True) == pytest.approx(true.numpy(), abs=1e-4)


def test_what_the_focal_loss_is_certain_of_stays_finite_and_in_order() -> None:
    logits = np.array([[200.0, 0.0, -5.0], [0.0, 0.0, 0.0], [1e4, -1e4, 0.0]])
    found = unfocused(logits, 2.0)
    assert np.isfinite(found).all()
    assert (found.argmax(1) == logits.argmax(1)).all()


@pytest.mark.parametrize("remedy", [name for name in IMBALANCE if name != "ldam-drw"])
@pytest.mark.parametrize("minority_augment", [0.0, 0.5])
def test_natural_logits_bring_back_the_prior_of_the_data(remedy: str, minority_augment: float) -> None:
    """The best constant logits under the loss, where images say nothing, come back as the data's own shares."""
    counts = np.array([900, 90, 10])
    made = balance(counts, remedy, minority_augment, 1.0)
    logits = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([logits], max_iter=500, tolerance_grad=1e-12, line_search_fn="strong_wolfe")
    objective = objective_of(made, 0.0, CPU)

    def expected() -> Tensor:
        optimizer.zero_grad()
        loss = (torch.from_numpy(made.shares) * objective(logits.expand(3, 3), torch.arange(3), 0.0)).sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    for _ in range(5):
        optimizer.step(expected)  # type: ignore[no-untyped-call]
    found = np.exp(natural_logits(logits.detach().numpy()[None], made, counts))[0]
    assert found / found.sum() == pytest.approx(counts / counts.sum(), abs=2e-3)


def test_after_deferred_re_weighting_rare_classes_are_made_improbable_again() -> None:
    """For LDAM the prior is that of the re-weighted part: about equal classes, so the data's own is put back."""
    counts = np.array([900, 90, 10])
    found = natural_logits(np.zeros((1, 3)), balance(counts, "ldam-drw", 0.0, 1.0), counts)[0]
    assert np.exp(found) / np.exp(found).sum() == pytest.approx(counts / counts.sum(), rel=0.06)
