"""From a source of images to images ready to learn from: read, decode, audit and split."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from steadylens.config import Config
from steadylens.console import Advance, Console
from steadylens.data.audit import audit
from steadylens.data.batches import LabelledPixels, preprocessing_of
from steadylens.data.duplicates import NearDuplicates, find_near_duplicates
from steadylens.data.findings import Finding
from steadylens.data.images import Preprocessing
from steadylens.data.sources import ImageIndex, Tally
from steadylens.data.split import Splits, split
from steadylens.data.store import Store, cache_folder, decode
from steadylens.training.selection import choose_image_size


@dataclass
class Stopwatch:
    """Seconds since the start of a run, and of each of its stages."""

    started: float = field(default_factory=time.perf_counter)
    stages: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time one stage."""
        begin = time.perf_counter()
        yield
        self.stages[name] = self.stages.get(name, 0.0) + time.perf_counter() - begin

    def elapsed(self) -> float:
        """Seconds since the start."""
        return time.perf_counter() - self.started


@dataclass(frozen=True)
class Prepared:
    """Images ready to learn from."""

    store: Store
    near: NearDuplicates
    findings: tuple[Finding, ...]
    splits: Splits
    preprocessing: Preprocessing
    size_reason: str

    def part(self, rows: NDArray[np.int64]) -> LabelledPixels:
        """The images of one split."""
        return LabelledPixels(self.store.pixels, rows, self.store.index.labels[rows])


def prepare(
    read: Callable[[Tally], ImageIndex],
    config: Config,
    console: Console,
    watch: Stopwatch,
    earlier: Mapping[str, str] | None = None,
) -> Prepared:
    """Read, decode, audit and split the images, and say what was found; `earlier` splits are kept (see `split`)."""
    store, size_reason = decoded(read, config, console, watch)
    near, findings = audited(store, console, watch)
    with watch.stage("split"), console.stage("Splitting"):
        splits = split(store.index, config.seed, clusters=near.clusters, earlier=earlier)
    fixed = [store.index.fixes.sentence()] if store.index.fixes is not None else []
    for text in (*fixed, *(f.sentence() for f in findings), *splits.notes):
        console.say(f"  {text}")
    training = LabelledPixels(store.pixels, splits.train, store.index.labels[splits.train])
    return Prepared(store, near, findings, splits, preprocessing_of(training), size_reason)


def decoded(
    read: Callable[[Tally], ImageIndex], config: Config, console: Console, watch: Stopwatch
) -> tuple[Store, str]:
    """Read and decode the images; the second value says why at that size."""
    with watch.stage("read"), console.stage("Reading") as advance:
        index = read(counting(advance))
        image_size, size_reason = choose_image_size(config, index.widths, index.heights)
    with watch.stage("decode"), console.stage("Decoding") as advance:
        store = decode(index, image_size, cache=cache_folder(), advance=counting(advance))
    return store, size_reason


def audited(store: Store, console: Console, watch: Stopwatch) -> tuple[NearDuplicates, tuple[Finding, ...]]:
    """Look at the images after decoding, which alone tells which of them can be used."""
    with watch.stage("audit"), console.stage("Auditing") as advance:
        near = find_near_duplicates(store.index, store.pixels, lambda share: advance(share, "near-duplicates"))
        return near, audit(store.index, store.pixels, near)


def counting(advance: Advance) -> Tally:
    """Progress told as so many done of so many."""
    return lambda done, found: advance(done / max(found, 1), f"{done:,} of {found:,}")
