"""Which test images a report shows."""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from steadylens.report.examples import MOST, choose_examples
from steadylens.report.page import Example

CLASSES = ("a", "b", "c")


def choose(
    labels: NDArray[np.int64], predicted: NDArray[np.int64], sure: NDArray[np.float64], seed: int = 0
) -> list[Example]:
    """The examples for such predictions; the pixels of image i are all of the value i."""
    n = len(labels)
    probabilities = np.repeat(((1 - sure) / 2)[:, None], 3, 1)
    probabilities[np.arange(n), predicted] = sure
    pixels = np.broadcast_to(np.arange(n, dtype=np.uint8)[:, None, None, None], (n, 4, 4, 3)).copy()
    return choose_examples(pixels, [f"/{i}.png" for i in range(n)], labels, probabilities, CLASSES, seed=seed)


def random_case(n: int = 200) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    rng = np.random.default_rng(0)
    return rng.integers(0, 3, n), rng.integers(0, 3, n), rng.uniform(0.4, 1, n)


def numbers(examples: list[Example], group: str) -> list[int]:
    return [int(example.path[1:-4]) for example in examples if example.group == group]


def test_each_example_is_what_it_is_said_to_be() -> None:
    labels, predicted, sure = random_case()
    examples = choose(labels, predicted, sure)
    assert {group: len(numbers(examples, group)) for group in ("confident-wrong", "wrong", "right")} == {
        "confident-wrong": MOST,
        "wrong": MOST,
        "right": MOST,
    }
    for example in examples:
        number = int(example.path[1:-4])
        assert (example.group == "right") == (labels[number] == predicted[number])
        assert (example.true_class, example.predicted_class) == (CLASSES[labels[number]], CLASSES[predicted[number]])
        assert example.probability == sure[number]
        with Image.open(io.BytesIO(example.png)) as image:
            assert np.array_equal(np.asarray(image), np.full((4, 4, 3), number))


def test_no_image_is_shown_twice() -> None:
    paths = [example.path for example in choose(*random_case())]
    assert len(set(paths)) == len(paths)


def test_the_surest_mistakes_come_first() -> None:
    labels, predicted, sure = random_case()
    wrong = np.flatnonzero(labels != predicted)
    assert numbers(choose(labels, predicted, sure), "confident-wrong") == sorted(wrong, key=lambda i: -sure[i])[:MOST]


def test_right_ones_come_from_every_class_in_turn() -> None:
    labels = np.array([0] * 80 + [1] * 3 + [2] * 20)
    right = numbers(choose(labels, labels, np.full(len(labels), 0.9)), "right")
    assert labels[right].tolist() == [0, 1, 2] * 3 + [0, 2] + [0]


def test_the_seed_decides() -> None:
    case = random_case()
    assert choose(*case, seed=1) == choose(*case, seed=1)
    assert choose(*case, seed=1) != choose(*case, seed=2)


def test_where_nothing_is_wrong_only_right_ones_are_shown_and_the_reverse() -> None:
    labels = np.arange(5) % 3
    sure = np.full(5, 0.8)
    assert {example.group for example in choose(labels, labels, sure)} == {"right"}
    assert {example.group for example in choose(labels, (labels + 1) % 3, sure)} == {"confident-wrong"}
