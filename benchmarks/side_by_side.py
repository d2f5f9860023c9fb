"""What the benchmarks that put several tools side by side share: splits, timing, results that are kept, table rows."""

from __future__ import annotations

import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.model_selection import train_test_split

# glibc gives large blocks back to the system after each use, and the next use waits for the system to clear them.
KEEP_MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(2**30), "MALLOC_TRIM_THRESHOLD_": str(2**32)}
Figures = dict[str, float]


@contextmanager
def splits_of(folder: Path, images: int | None = None, seed: int = 0) -> Iterator[Path]:
    """A folder with train/ and test/ (and validation/ where it is given), of links to a data set's images.

    `images` keeps so many training images of each class, drawn with `seed`, and no validation images.
    """
    rng = np.random.default_rng(seed)
    given = (folder / "train").is_dir()
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        parts = {name: folder / name for name in ("train", "validation", "test") if (folder / name).is_dir()}
        if not given:
            parts = {"train": folder}
        for split, source in parts.items():
            for members in sorted(path for path in source.iterdir() if path.is_dir()):
                files = sorted(path for path in members.iterdir() if path.is_file())
                kept = {split: files}
                if not given:
                    kept = dict(
                        zip(("train", "test"), train_test_split(files, test_size=0.2, random_state=0), strict=True)
                    )
                if images is not None:
                    chosen = rng.permutation(len(kept.get("train", [])))[:images]
                    kept = {name: [kept[name][i] for i in chosen] if name == "train" else kept[name] for name in kept}
                    kept.pop("validation", None)
                for name, some in kept.items():
                    (root / name / members.name).mkdir(parents=True, exist_ok=True)
                    for path in some:
                        (root / name / members.name / path.name).symlink_to(path.resolve())
        yield root


OURS = ("-m", "steadylens")


def report_of(data: Path, words: list[str], cache: Path | None = None, program: Sequence[str] = OURS) -> dict[str, Any]:
    """The report of one whole `steadylens train`; without a `cache` it decodes its images, as its peers do."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, *program, "train", str(data), "--out", f"{folder}/run", *words]
        environment = {**os.environ, "STEADYLENS_CACHE": str(cache or f"{folder}/cache")}
        answer = subprocess.run(
            [*command, "--json", "--quiet"], check=True, stdout=subprocess.PIPE, text=True, env=environment
        )
    report: dict[str, Any] = json.loads(answer.stdout)
    return report


def test_figures(report: dict[str, Any]) -> Figures:
    """Those of its figures on the test split that rows show."""
    names = ("balanced_accuracy", "worst_class_recall", "balanced_log_loss", "ece")
    return {name: report["test"][name]["value"] for name in names}


def figures_of(truth: np.ndarray, probabilities: np.ndarray) -> Figures:
    """The same figures of a peer, from labels (n,) and probabilities (n, classes)."""
    rows = [np.flatnonzero(truth == label) for label in range(probabilities.shape[1])]
    recall = [float((probabilities[some].argmax(1) == label).mean()) for label, some in enumerate(rows)]
    losses = -np.log(probabilities[np.arange(len(truth)), truth].clip(1e-12))
    return {
        "balanced_accuracy": float(np.mean(recall)),
        "worst_class_recall": min(recall),
        "balanced_log_loss": float(np.mean([losses[some].mean() for some in rows])),
    }


def last_line(command: list[str], environment: dict[str, str]) -> Figures:
    """The figures that a peer prints as its last line, JSON."""
    answer = subprocess.run(
        command, check=True, stdout=subprocess.PIPE, text=True, env={**os.environ, **KEEP_MEMORY, **environment}
    )
    figures: Figures = json.loads(answer.stdout.splitlines()[-1])
    return figures


def once(results: Path | None, key: list[object], run: Callable[[], Figures]) -> Figures:
    """The figures of a run, with its seconds and what went on elsewhere; from `results` where it was done before."""
    lines = results.read_text().splitlines() if results is not None and results.exists() else []
    for done in map(json.loads, lines):
        if done["key"] == key:
            known: Figures = done["figures"]
            return known
    begin, busy = time.perf_counter(), seconds_elsewhere()
    figures = run()
    seconds = time.perf_counter() - begin
    figures |= {"seconds": seconds, "elsewhere": (seconds_elsewhere() - busy) / seconds}
    if results is not None:
        with results.open("a") as file:
            file.write(json.dumps({"key": key, "figures": figures}) + "\n")
    return figures


def seconds_elsewhere() -> float:
    """Processor seconds of normal priority that this system has spent on others than our finished commands."""
    user, _, system = map(int, Path("/proc/stat").read_text().split("\n")[0].split()[1:4])
    mine = resource.getrusage(resource.RUSAGE_CHILDREN)
    return (user + system) / os.sysconf("SC_CLK_TCK") - mine.ru_utime - mine.ru_stime


def show(*cells: object) -> None:
    """Print one row."""
    print("| " + " | ".join(map(str, cells)) + " |", flush=True)


def row(name: str, results: list[Figures]) -> None:
    """Mean and each seed's figure of what was measured."""
    shown = []
    for key in ("balanced_accuracy", "worst_class_recall"):
        values = [100 * r[key] for r in results]
        each = f" ({', '.join(f'{v:.1f}' for v in values)})" if len(values) > 1 else ""
        shown.append(f"{statistics.mean(values):.1f}{each}")
    loss = statistics.mean(r["balanced_log_loss"] for r in results)
    show(name, *shown, f"{loss:.3f}", f"{statistics.mean(r['seconds'] for r in results):.0f}")


def seconds_of(budget: str) -> float:
    """A budget such as 90s or 10m in seconds."""
    return float(budget[:-1]) * {"s": 1, "m": 60, "h": 3600}[budget[-1]]
