"""The folder of a comparison: settings, which every process that works in it agrees on, and files of results."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from steadylens import __version__, files
from steadylens.config import Config
from steadylens.data.split import Splits
from steadylens.errors import ConfigError, DataError
from steadylens.preparation import Prepared, Stopwatch
from steadylens.training.resolution import choose_device
from steadylens.training.speed import choose_precision

PAGE_S = 15.0  # of the budget, set aside for the intervals of the differences and the page
FEWEST_S = 8.0  # in less than that, a training is over before it has begun
SETTINGS, RESULTS = "settings.json", "results"


def path_of(folder: Path, strategy: str, seed: int) -> Path:
    """The file of one training in a comparison's folder."""
    return folder / RESULTS / f"{strategy}-{seed}.json"


def named(splits: Splits) -> tuple[tuple[str, Any], ...]:
    """The splits by name, each with its rows."""
    return ("train", splits.train), ("validation", splits.validation), ("test", splits.test)


def require_own(folder: Path) -> None:
    """Raise a ConfigError where there is something in the folder that no comparison made."""
    if not folder.exists() or (folder / SETTINGS).is_file():
        return
    if not folder.is_dir() or any(path.name not in (files.LOCK, RESULTS) for path in folder.iterdir()):
        raise ConfigError(f"{folder} exists and holds no comparison. Choose another folder with --out, or remove it.")


def settings_of(
    prepared: Prepared, shared: Config, names: Sequence[str], seeds: int, budget: float | None, jobs: int
) -> dict[str, Any]:
    """All that determines the results, in JSON values."""
    index = prepared.store.index
    splits = [rows.tolist() for _, rows in named(prepared.splits)]
    content = [index.sha256, index.labels.tolist(), index.classes, splits]
    return {
        "steadylens_version": __version__,
        "images": len(index),
        "data_sha256": files.sha256(json.dumps(content).encode()),
        "image_size": prepared.preprocessing.image_size,
        "strategies": list(names),
        "seeds": seeds,
        "jobs": jobs,
        "seed": shared.seed,
        "network": shared.network,
        "budget": budget,
        "epochs": shared.epochs,
        "device": choose_device(shared.device)[0],
    }


def agreed(folder: Path, asked: dict[str, Any], trainings: int, watch: Stopwatch) -> dict[str, Any]:
    """The settings of the comparison in the folder, made where there are none: with the share and precision of each.

    Raises:
        ConfigError: they are of other images, or differ from what is asked for; or the time is too short.
    """
    path = folder / SETTINGS
    kept = read_json(path)
    if kept is None:
        share = None if asked["budget"] is None else _share(asked["budget"], trainings, asked["jobs"], watch)
        if share is not None and share < FEWEST_S:
            raise ConfigError(
                f"{trainings} trainings in {asked['budget']:.0f} s would get {max(0.0, share):.1f} s each, and need "
                f"{FEWEST_S:.0f}. Give a larger --budget, --epochs in its place, or fewer --strategies or --seeds."
            )
        kept = {**asked, "seconds_each": share, "precision": choose_precision("auto", asked["device"])[0]}
        files.write_json(path, kept)
    differences = [
        f"{name}: {kept.get(name)} then, {value} now" for name, value in asked.items() if kept.get(name) != value
    ]
    if differences:
        listed = "; ".join(differences)
        raise ConfigError(f"The comparison in {folder} is another one ({listed}). Give another --out, or its settings.")
    return kept


def _share(budget: float, trainings: int, jobs: int, watch: Stopwatch) -> float:
    """The seconds of each training: the others begin as the comparison has begun, but find the images decoded."""
    begun = watch.elapsed()
    if jobs > 1:
        begun += watch.elapsed() - watch.stages.get("decode", 0.0)
    return (budget - begun - PAGE_S) / math.ceil(trainings / jobs)


def read_json(path: Path) -> dict[str, Any] | None:
    """What a JSON file of the comparison says, or None where it is not there.

    Raises:
        DataError: it is damaged.
    """
    try:
        read: dict[str, Any] = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read ({error}). Remove it, and run the same command again.") from error
    return read
