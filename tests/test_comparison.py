"""A comparison trains every strategy on the same images, goes on where it stopped, and mixes nothing that differs."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_sample_images

import steadylens
from steadylens import comparison, comparison_folder, files
from steadylens.comparison import Comparison
from steadylens.config import parse
from steadylens.data.images import fit_array
from steadylens.data.sources import index_arrays, read_index
from steadylens.errors import ConfigError, DataError, ResourceError
from steadylens.models import hub
from steadylens.models.pretrained import Pretrained, from_file
from steadylens.shares import Job
from steadylens.training.backbones import CURATED

OPTIONS: dict[str, Any] = {"network": "keras-blog", "epochs": 2}
NAMES = ["class-weights", "ldam-drw", "auto"]
MakeWeights = Callable[..., Path]


def compare(
    data: Path,
    folder: Path,
    names: list[str] | None = None,
    seeds: int = 1,
    jobs: int = 1,
    share: list[Job] | None = None,
    **options: Any,  # noqa: ANN401
) -> Comparison:
    return comparison.compare(
        lambda advance: read_index(data, advance=advance),
        folder,
        parse({**OPTIONS, **options}),
        strategies=NAMES if names is None else names,
        seeds=seeds,
        jobs=jobs,
        share=share,
        command="steadylens compare parts",
    )


@pytest.fixture(scope="module")
def made(images_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Comparison:
    return compare(images_folder, tmp_path_factory.mktemp("comparisons") / "made", seeds=2)


@pytest.fixture
def copy(made: Comparison, tmp_path: Path) -> Path:
    """A copy that a test may change."""
    return shutil.copytree(made.folder, tmp_path / "copy")


def result_in(folder: Path, name: str, seed: int = 0) -> dict[str, Any]:
    result: dict[str, Any] = json.loads((folder / "results" / f"{name}-{seed}.json").read_text("utf-8"))
    return result


def test_every_strategy_and_seed_has_a_result_of_its_own(made: Comparison) -> None:
    assert {path.name for path in made.folder.iterdir()} == {
        *(".lock", "settings.json", "results", "compare.json", "compare.html")
    }
    rows = {row["name"]: row for row in made.report["strategies"]}
    assert list(rows) == ["plain", *NAMES]
    for name, row in rows.items():
        results = [result_in(made.folder, name, seed) for seed in (0, 1)]
        assert [one["seed"] for one in row["trainings"]] == [0, 1]
        assert results[0]["curve"] != results[1]["curve"], "another seed is another training"
        for figure in ("balanced_accuracy", "worst_class_recall", "log_loss", "ece"):
            mean = np.mean([one["test"][figure]["value"] for one in results])
            assert row["test"][figure]["value"] == pytest.approx(mean)
        assert row["gap"] == pytest.approx(np.mean([one["diagnosis"]["gap"] for one in results]))
    assert rows["class-weights"]["recipe"]["imbalance"] == "class-weights"
    assert rows["plain"]["recipe"]["network"] == "keras-blog"
    assert rows["plain"]["difference"] is None
    assert json.loads((made.folder / "compare.json").read_text("utf-8")) == made.report


def test_labels_that_were_not_checked_are_not_said_to_be(made: Comparison) -> None:
    assert made.report["data"]["label_issues"] is None
    assert "were checked" not in json.dumps(made.report["data"])


def test_all_are_tested_on_the_same_images(made: Comparison) -> None:
    results = [json.loads(path.read_text("utf-8")) for path in (made.folder / "results").iterdir()]
    supports = [[row["support"] for row in one["test"]["per_class"]] for one in results]
    assert supports.count(supports[0]) == len(results) == 8
    assert {len(one["answers"]["predicted"]) for one in results} == {made.report["test_images"]}


def test_auto_is_what_train_does(made: Comparison, images_folder: Path, tmp_path: Path) -> None:
    precision = made.report["settings"]["precision"]
    run = steadylens.train(images_folder, out=tmp_path / "run", quiet=True, epochs=2, precision=precision)
    auto = result_in(made.folder, "auto")
    assert auto["test"] == run.report["test"]
    assert auto["diagnosis"] == run.report["diagnosis"]
    assert auto["recipe"] == run.report["selection"]["chosen"]


def test_an_interrupted_comparison_does_what_is_missing_and_comes_to_the_same(
    made: Comparison, copy: Path, images_folder: Path
) -> None:
    missing = copy / "results" / "ldam-drw-1.json"
    missing.unlink()
    (copy / "compare.json").unlink()
    before = {path.name: path.stat().st_mtime_ns for path in (copy / "results").iterdir()}
    again = compare(images_folder, copy, seeds=2)
    after = {path.name: path.stat().st_mtime_ns for path in (copy / "results").iterdir()}
    assert before == {name: after[name] for name in before}
    ours, theirs = (result_in(folder, "ldam-drw", 1) for folder in (copy, made.folder))
    for key in ("test", "validation", "recipe", "answers", "diagnosis"):
        assert ours[key] == theirs[key]
    rows, others = (report["strategies"] for report in (again.report, made.report))
    assert [row["difference"] for row in rows] == [row["difference"] for row in others]


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"epochs": 3}, "epochs: 2 then, 3 now"),
        ({"seed": 1}, "seed: 0 then, 1 now"),
        ({"network": "cnn-s"}, "network: keras-blog then, cnn-s now"),
        ({"budget": "9m"}, "budget: None then, 540"),
        ({"names": ["focal"]}, "strategies: "),
        ({"seeds": 1}, "seeds: 2 then, 1 now"),
        ({"jobs": 2}, "jobs: 1 then, 2 now"),
        ({"image_size": 16}, "image_size: 12 then, 16 now"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_other_settings_are_refused_with_the_difference(
    copy: Path, images_folder: Path, change: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(ConfigError, match=complaint):
        compare(images_folder, copy, **{"seeds": 2, **change})


def test_other_images_are_refused(copy: Path, make_images: Callable[..., Path]) -> None:
    with pytest.raises(ConfigError, match="data_sha256: ") as refused:
        compare(make_images(seed=5), copy, seeds=2)
    assert "Give another --out" in str(refused.value)
    with pytest.raises(ConfigError, match="images: 60 then, 61 now"):
        compare(make_images({"bolt": 31, "nut": 18, "washer": 12}, name="more"), copy, seeds=2)


def test_a_folder_of_something_else_is_left_alone(images_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("not to be lost")
    with pytest.raises(ConfigError, match="holds no comparison"):
        compare(images_folder, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_one_of_the_others_does_its_share_and_nothing_else(copy: Path, images_folder: Path) -> None:
    for path in (copy / "results").iterdir():
        path.unlink()
    page = (copy / "compare.html").stat().st_mtime_ns
    with files.locked(copy):  # as the comparison holds it
        made = compare(images_folder, copy, seeds=2, share=[("ldam-drw", 1), ("plain", 0)])
    assert made.report == {}
    assert {path.name for path in (copy / "results").iterdir()} == {"ldam-drw-1.json", "plain-0.json"}
    assert (copy / "compare.html").stat().st_mtime_ns == page


def test_one_process_at_a_time(copy: Path, images_folder: Path) -> None:
    with files.locked(copy), pytest.raises(ResourceError, match="Another process is working in"):
        compare(images_folder, copy, seeds=2)


def test_a_damaged_result_is_named(copy: Path, images_folder: Path) -> None:
    (copy / "results" / "plain-0.json").write_text('{"strategy": "pla')
    with pytest.raises(DataError, match=r"plain-0\.json cannot be read"):
        compare(images_folder, copy, seeds=2)


def test_a_budget_is_shared_out_equally_and_the_share_is_kept(
    images_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module, name, value in (
        (comparison_folder, "PAGE_S", 0.5),
        (comparison, "EVALUATE_S", 0.1),
        (comparison_folder, "FEWEST_S", 0.1),
    ):
        monkeypatch.setattr(module, name, value)
    report = compare(images_folder, tmp_path / "made", ["l2"], epochs=None, budget=9).report
    share = report["settings"]["seconds_each"]
    assert 0.1 < share < (9 - 0.5) / 2
    (tmp_path / "made" / "results" / "l2-0.json").unlink()
    monkeypatch.setattr(comparison, "_train", lambda *_: result_in(tmp_path / "made", "plain") | {"strategy": "l2"})
    again = compare(images_folder, tmp_path / "made", ["l2"], epochs=None, budget=9).report
    assert again["settings"]["seconds_each"] == share


def test_too_little_time_for_so_many_trainings_is_refused(images_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="17 trainings in 100 s would get"):
        comparison.compare(
            lambda advance: read_index(images_folder, advance=advance),
            tmp_path / "made",
            parse({"network": "keras-blog", "budget": 100}),
            command="",
        )
    assert not list((tmp_path / "made" / "results").iterdir())


def test_auto_may_take_a_pretrained_backbone_and_is_tested_on_the_same_images(
    make_weights: MakeWeights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny = from_file(make_weights())
    fields = {name: getattr(tiny, name) for name in tiny.__dataclass_fields__}
    monkeypatch.setattr(hub, "cached", {CURATED[0].network}.__contains__)
    monkeypatch.setattr(hub, "from_hub", lambda network: Pretrained(**{**fields, "source": network}))
    rng, whole = np.random.default_rng(0), load_sample_images().images
    pixels, names = [], []
    for i in range(48):
        top, left = rng.integers(0, 427 - 100), rng.integers(0, 640 - 100)
        pixels.append(fit_array(whole[i % 2][top : top + 100, left : left + 100], 72))
        names.append(["temple", "flower"][i % 2])
    shared = parse({"network": "keras-blog", "epochs": 1, "image_size": "auto"})
    report = comparison.compare(
        lambda _: index_arrays(np.stack(pixels), names), tmp_path / "made", shared, strategies=["auto"], command=""
    ).report
    plain, auto = report["strategies"]
    assert auto["recipe"]["network"] == "timm:test_efficientnet"
    assert (plain["recipe"]["image_size"], auto["recipe"]["image_size"]) == (64, 32)
    ours, theirs = (result_in(tmp_path / "made", name) for name in ("plain", "auto"))
    assert [row["support"] for row in ours["test"]["per_class"]] == [r["support"] for r in theirs["test"]["per_class"]]
