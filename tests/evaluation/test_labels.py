"""Wrong labels are found by what networks say, in any order of images and classes, and clean ones are left alone."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from steadylens.evaluation.labels import doubt, outliers, suspicious_labels

CLASSES = ("ant", "bee", "cat", "dog")


def drawn(
    n: int, noise: float, *, seed: int = 0, sharpness: float = 3.0, temperature: float = 1.0
) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.bool_]]:
    """Logits, labels drawn from their softmax (with some then made wrong), and which are wrong."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, sharpness, (n, len(CLASSES)))
    labels = (logits + rng.gumbel(size=logits.shape)).argmax(1)  # a draw from the softmax
    wrong = rng.random(n) < noise
    labels[wrong] = (labels[wrong] + rng.integers(1, len(CLASSES), wrong.sum())) % len(CLASSES)
    return logits * temperature, labels, wrong


@pytest.mark.parametrize("noise", [0.02, 0.1, 0.3])
@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_the_share_of_wrong_labels_and_the_temperature_are_estimated(noise: float, temperature: float) -> None:
    logits, labels, wrong = drawn(6000, noise, temperature=temperature)
    doubts = doubt(logits, labels)
    assert doubts.noise == pytest.approx(wrong.mean(), abs=0.02)
    assert doubts.temperature == pytest.approx(temperature, rel=0.15)


def test_a_probability_of_being_wrong_means_what_it_says() -> None:
    logits, labels, wrong = drawn(20_000, 0.1)
    doubts = doubt(logits, labels)
    for low, high in ((0.0, 0.1), (0.1, 0.5), (0.5, 0.8), (0.8, 1.0)):
        these = (doubts.wrong >= low) & (doubts.wrong < high)
        assert wrong[these].mean() == pytest.approx(doubts.wrong[these].mean(), abs=0.07)


def test_hard_but_clean_labels_are_left_alone() -> None:
    logits, labels, _ = drawn(5000, 0.0, sharpness=1.5)
    doubts = doubt(logits, labels)
    assert (logits.argmax(1) != labels).mean() > 0.3  # the network is often wrong, and says so
    assert doubts.noise < 0.02
    assert (doubts.wrong > 0.5).mean() < 0.01


@given(st.permutations(range(len(CLASSES))), st.integers(0, 1000))
@settings(max_examples=15, deadline=None)
def test_the_order_of_classes_does_not_matter(order: list[int], seed: int) -> None:
    logits, labels, _ = drawn(300, 0.1, seed=seed)
    place = np.argsort(order)  # of each class in the new order
    plain, moved = doubt(logits, labels), doubt(logits[:, order], place[labels])
    np.testing.assert_allclose(moved.wrong, plain.wrong, atol=1e-6)
    assert np.array_equal(np.array(order)[moved.other], plain.other)


@given(st.integers(0, 1000))
@settings(max_examples=15, deadline=None)
def test_the_order_of_images_does_not_matter(seed: int) -> None:
    logits, labels, _ = drawn(300, 0.1, seed=seed)
    rows = np.random.default_rng(seed).permutation(300)
    plain, moved = doubt(logits, labels), doubt(logits[rows], labels[rows])
    np.testing.assert_allclose(moved.wrong, plain.wrong[rows], atol=1e-4)


@given(st.integers(2, 12), st.integers(1, 40), st.floats(0, 50), st.integers(0, 1000))
@settings(max_examples=40, deadline=None)
def test_any_logits_give_probabilities(classes: int, n: int, scale: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, n)
    doubts = doubt(rng.normal(0, scale, (n, classes)), labels)
    assert ((doubts.wrong >= 0) & (doubts.wrong <= 1)).all()
    assert ((doubts.probability >= 0) & (doubts.probability <= 1)).all()
    assert (doubts.other != labels).all()
    assert 0 <= doubts.noise <= 0.5


def test_findings_name_the_images_most_suspicious_first_and_the_class_to_move_them_to() -> None:
    logits, labels, wrong = drawn(2000, 0.05, sharpness=12.0)
    paths = [f"{CLASSES[label]}/{row}.png" for row, label in enumerate(labels)]
    doubts = doubt(logits, labels)
    findings = suspicious_labels(doubts, labels, CLASSES, paths)
    flagged = [path for finding in findings for path in finding.paths]
    rows = [paths.index(path) for path in flagged]
    assert wrong[rows].sum() >= 0.7 * wrong.sum()
    assert wrong[rows].mean() >= 0.7
    assert len(set(flagged)) == len(flagged) == (doubts.wrong > 0.5).sum()
    assert {finding.kind for finding in findings} == {"label"}
    for finding in findings:
        mine = [paths.index(path) for path in finding.paths]
        assert np.all(np.diff(doubts.wrong[mine]) <= 0)
        assert len({labels[row] for row in mine}) == 1
        assert f"labelled {CLASSES[labels[mine[0]]]!r}" in finding.text
        assert repr(CLASSES[doubts.other[mine[0]]]) in finding.text
        assert all((doubts.wrong[row] > 0.9) == (finding.sure == "likely") for row in mine)
        assert [s.path for s in finding.suggestions] == list(finding.paths)
        assert [s.new_class for s in finding.suggestions] == [CLASSES[doubts.other[row]] for row in mine]
        assert {s.action for s in finding.suggestions} == {"relabel"}


def test_nothing_is_found_among_sure_and_right_labels() -> None:
    labels = np.arange(60) % 4
    doubts = doubt(8.0 * np.eye(4)[labels], labels)
    assert suspicious_labels(doubts, labels, CLASSES, [str(row) for row in range(60)]) == ()


def test_what_lies_far_out_is_an_outlier_the_farthest_first() -> None:
    distances = np.random.default_rng(0).normal(0.3, 0.02, 500)
    distances[[7, 8]] = 0.6, 0.9
    (finding,) = outliers(distances, [str(row) for row in range(500)])
    assert (finding.kind, finding.sure, finding.paths) == ("outlier", "possible", ("8", "7"))


@pytest.mark.parametrize("n", [0, 1, 50])
def test_equal_distances_hold_no_outlier(n: int) -> None:
    assert outliers(np.full(n, 0.2), [str(row) for row in range(n)]) == ()
