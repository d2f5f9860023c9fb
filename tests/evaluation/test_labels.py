"""Wrong labels are found by what networks say, in any order of images and classes, and clean ones are left alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from steadylens.config import Config
from steadylens.data.batches import LabelledPixels
from steadylens.evaluation.labels import check_all, doubt, outliers, suspicious_labels, wrong_share

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
@pytest.mark.parametrize("temperature", [0.5, 3.0])
def test_the_share_of_wrong_labels_is_estimated_whatever_the_temperature(noise: float, temperature: float) -> None:
    logits, labels, wrong = drawn(4000, noise, sharpness=8.0, temperature=temperature)
    doubts = doubt(logits, labels)
    assert doubts.noise == pytest.approx(wrong.mean(), rel=0.25)
    assert doubts.suspicious.sum() == round(doubts.noise * 4000)
    assert wrong[doubts.suspicious].mean() > 0.7
    assert doubts.suspicious[wrong].mean() > 0.6


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("n", [50, 3000])
def test_hard_but_clean_labels_are_left_alone(n: int, seed: int) -> None:
    logits, labels, _ = drawn(n, 0.0, sharpness=1.5, seed=seed)
    assert (logits.argmax(1) != labels).mean() > 0.25  # the network is often wrong, and says so
    doubts = doubt(logits, labels)
    assert doubts.noise == 0.0
    assert not doubts.suspicious.any()


def test_labels_of_chance_are_not_suspicious() -> None:
    """A network that knows nothing has nothing to say against a label."""
    rng = np.random.default_rng(0)
    assert not doubt(rng.normal(size=(500, 4)), rng.integers(0, 4, 500)).suspicious.any()


def test_wrong_share_counts_what_is_less_plausible_than_chance_allows() -> None:
    plausible = np.tile([1.0, 0.0], (100, 1))
    labels = np.repeat([0, 1], [90, 10])
    # Given: 90 times 1, 10 times 0. Others: 90 times 0, 10 times 1. At 0: 10 % of the given, 90 % of the others.
    assert wrong_share(plausible, labels) == pytest.approx((10 + 0.5 * 10**0.5) / 100 / 0.9)


def test_networks_that_saw_the_image_help_to_tell_which_but_not_how_many() -> None:
    logits, labels, wrong = drawn(2000, 0.1, sharpness=2.0)
    hint = 6.0 * np.eye(4)[labels] * ~wrong[:, None]
    plain, helped = doubt(logits, labels), doubt(logits, labels, logits + hint)
    assert helped.noise == plain.noise
    assert wrong[helped.suspicious].mean() > wrong[plain.suspicious].mean() + 0.1


@given(st.permutations(range(len(CLASSES))), st.integers(0, 1000))
@settings(max_examples=15)
def test_the_order_of_classes_does_not_matter(order: list[int], seed: int) -> None:
    logits, labels, _ = drawn(300, 0.1, seed=seed, sharpness=8.0)
    place = np.argsort(order)  # of each class in the new order
    plain, moved = doubt(logits, labels), doubt(logits[:, order], place[labels])
    # Of probabilities that are all but 1, the log-odds are rounded.
    np.testing.assert_allclose(moved.scores.clip(-20), plain.scores.clip(-20), rtol=1e-3, atol=1e-3)
    assert np.array_equal(np.array(order)[moved.other], plain.other)
    assert moved.noise == pytest.approx(plain.noise, abs=1e-3)


@given(st.integers(0, 1000))
@settings(max_examples=15)
def test_the_order_of_images_does_not_matter(seed: int) -> None:
    logits, labels, _ = drawn(300, 0.1, seed=seed, sharpness=8.0)
    rows = np.random.default_rng(seed).permutation(300)
    plain, moved = doubt(logits, labels), doubt(logits[rows], labels[rows])
    np.testing.assert_allclose(moved.scores, plain.scores[rows], rtol=1e-3, atol=1e-3)
    assert moved.noise == pytest.approx(plain.noise, abs=1e-3)


@given(st.integers(2, 12), st.integers(1, 40), st.floats(0, 50), st.integers(0, 1000))
@settings(max_examples=40)
def test_any_logits_give_finite_doubts(classes: int, n: int, scale: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, n)
    doubts = doubt(rng.normal(0, scale, (n, classes)), labels)
    assert np.isfinite(doubts.scores).all()
    assert ((doubts.probability >= 0) & (doubts.probability <= 1)).all()
    assert (doubts.other != labels).all()
    assert 0 <= doubts.noise <= 0.5


def test_findings_name_the_images_most_suspicious_first_and_the_class_to_move_them_to() -> None:
    logits, labels, wrong = drawn(2000, 0.05, sharpness=12.0)
    paths = [f"{CLASSES[label]}/{row}.png" for row, label in enumerate(labels)]
    doubts = doubt(logits, labels)
    findings = suspicious_labels(doubts, labels, CLASSES, paths)
    flagged = [paths.index(path) for finding in findings for path in finding.paths]
    assert wrong[flagged].sum() >= 0.7 * wrong.sum()
    assert sorted(flagged) == np.flatnonzero(doubts.suspicious).tolist()
    assert {finding.kind for finding in findings} == {"label"}
    sure = {row: finding.sure for finding in findings for row in map(paths.index, finding.paths)}
    by_doubt = [sure[row] for row in sorted(flagged, key=lambda row: -doubts.scores[row])]
    assert by_doubt == sorted(by_doubt)  # "likely" before "possible"
    assert 0 <= by_doubt.count("likely") - by_doubt.count("possible") <= 1
    for finding in findings:
        mine = [paths.index(path) for path in finding.paths]
        assert np.all(np.diff(doubts.scores[mine]) <= 0)
        assert len({labels[row] for row in mine}) == 1
        assert f"labelled {CLASSES[labels[mine[0]]]!r}" in finding.text
        assert f"{CLASSES[doubts.other[mine[0]]]!r} ({doubts.probability[mine[0]]:.0%})" in finding.text
        assert [(s.path, s.action) for s in finding.suggestions] == [(path, "relabel") for path in finding.paths]
        assert [s.new_class for s in finding.suggestions] == [CLASSES[doubts.other[row]] for row in mine]


def test_nothing_is_found_among_sure_and_right_labels() -> None:
    labels = np.arange(60) % 4
    doubts = doubt(8.0 * np.eye(4)[labels], labels)
    assert suspicious_labels(doubts, labels, CLASSES, [str(row) for row in range(60)]) == ()


def test_what_lies_far_out_is_an_outlier_the_farthest_first() -> None:
    distances = np.random.default_rng(0).uniform(0.28, 0.32, 500)
    distances[[7, 8]] = 0.4, 0.5
    (finding,) = outliers(distances, [str(row) for row in range(500)])
    assert (finding.kind, finding.sure, finding.paths) == ("outlier", "possible", ("8", "7"))


@pytest.mark.parametrize("n", [0, 1, 50])
def test_equal_distances_hold_no_outlier(n: int) -> None:
    assert outliers(np.full(n, 0.2), [str(row) for row in range(n)]) == ()


@pytest.mark.parametrize(
    ("labels", "units", "unchecked"),
    [
        ([0, 1, 2], [0, 1, 2], [0, 1, 2]),
        ([0, 0, 0, 1, 1], [0, 0, 0, 1, 1], [0, 1, 2, 3, 4]),
        ([0, *[1] * 12, *[2] * 12], range(25), [0]),  # the first fold would hold the lone image of class 0 alone
    ],
)
def test_what_no_network_can_judge_is_said_and_the_rest_is_checked(
    labels: list[int], units: Sequence[int], unchecked: list[int]
) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (len(labels), 8, 8, 3), np.uint8)
    images = LabelledPixels(pixels, np.arange(len(labels)), np.array(labels))
    paths = [f"{row:02d}.png" for row in range(len(labels))]
    config = Config(network="cnn-s", width=0.125, epochs=1, batch_size=16, precision="fp32")
    findings = check_all(images, np.array(units), CLASSES[:3], paths, config, seconds=None)
    assert [f.paths for f in findings if f.kind == "unchecked-label"] == [tuple(paths[row] for row in unchecked)]


def test_all_labels_are_checked_by_networks_that_did_not_learn_them() -> None:
    rng, labels = np.random.default_rng(0), np.arange(121) % 2
    labels[120] = 2  # the only one of its class
    pixels = (100 + 60 * np.eye(3)[labels][:, None, None, :] + rng.normal(0, 40, (121, 8, 8, 3))).clip(0, 255)
    wrong = [4, 18, 31, 55, 77, 92]
    labels[wrong] = 1 - labels[wrong]
    paths = [f"{row:03d}.png" for row in range(121)]
    images = LabelledPixels(pixels.astype(np.uint8), np.arange(121), labels)
    config = Config(
        network="cnn-s", width=0.125, epochs=15, batch_size=16, learning_rate=1e-2, averaging=0.8, precision="fp32",
        augment="off", mixup=0.0,
    )  # fmt: skip
    told: list[float] = []
    findings = check_all(images, np.arange(121), CLASSES[:3], paths, config, seconds=None, on_progress=told.append)
    flagged = {path for finding in findings if finding.kind == "label" for path in finding.paths}
    assert {paths[row] for row in wrong} <= flagged
    assert len(flagged) <= 12
    assert [finding.paths for finding in findings if finding.kind == "unchecked-label"] == [("120.png",)]
    assert told[-1] == 1.0
