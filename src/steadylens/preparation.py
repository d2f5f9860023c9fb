"""From a source of images to images ready to learn from: read, decode, audit and split."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property

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
from steadylens.data.split import Splits, split, units_of
from steadylens.data.store import Store, cache_folder, decode, prune
from steadylens.errors import ResourceError
from steadylens.training.backbones import BackboneChoice, choose_backbone
from steadylens.training.framing import choose_fit
from steadylens.training.resolution import choose_device, choose_image_size

CACHE_CEILING_BYTES = 20 * 2**30


@dataclass
class Stopwatch:
    """Seconds since the start of a run, and of each of its stages; `earlier` were taken by processes before this."""

    started: float = field(default_factory=time.perf_counter)
    stages: dict[str, float] = field(default_factory=dict)
    earlier: float = 0.0

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time one stage."""
        begin = time.perf_counter()
        yield
        self.stages[name] = self.stages.get(name, 0.0) + time.perf_counter() - begin

    def already(self, seconds: float) -> None:
        """Add what earlier processes took for the same run."""
        self.earlier = seconds
        if seconds:
            self.stages["earlier"] = seconds

    def elapsed(self) -> float:
        """Seconds that the run has taken."""
        return self.earlier + time.perf_counter() - self.started


@dataclass(frozen=True)
class Prepared:
    """Images ready to learn from.

    Attributes:
        store: their pixels.
        near: which of them show the same photograph.
        findings: what was found, the most serious first.
        splits: which of them are for what.
        preprocessing: how pixels become input.
        backbone: the pretrained weights that they are prepared for, where there are any.
        reasons: why they are prepared so.
        foreign: whether images that are like no others have been looked for.
    """

    store: Store
    near: NearDuplicates
    findings: tuple[Finding, ...]
    splits: Splits
    preprocessing: Preprocessing
    backbone: BackboneChoice
    reasons: dict[str, str]
    foreign: bool = False

    def part(self, rows: NDArray[np.int64]) -> LabelledPixels:
        """The images of one split."""
        return LabelledPixels(self.store.pixels, rows, self.store.index.labels[rows])

    @cached_property
    def units(self) -> NDArray[np.int64]:
        """A number for each row of the store; those of images that show the same, or stand in one group, are equal."""
        return _units(self.store, self.near)


def prepare(
    read: Callable[[Tally], ImageIndex],
    config: Config,
    console: Console,
    watch: Stopwatch,
    budget: float | None,
    earlier: Mapping[str, str] | None = None,
) -> Prepared:
    """Read, decode, audit and split the images, and say what was found; `earlier` splits are kept (see `split`)."""

    def left() -> float | None:
        return None if budget is None else budget - watch.elapsed()

    index = indexed(read, console, watch)
    with watch.stage("choose"), console.stage("Choosing"):
        backbone = choose_backbone(config, index, choose_device(config.device)[0], seconds=left())
        rows = index.but_test()
        size, size_reason = choose_image_size(config, index.widths[rows], index.heights[rows])
        reasons = {"image_size": size_reason, **backbone.why}
    # Copies and odd images are looked for among squashed ones: the bars of padded ones are alike in all.
    frame = backbone.frame("squash", size)
    store = decoded(index, frame, console, watch)
    near, findings = audited(store, console, watch)
    splits = _split(store, near, config, console, watch, earlier)
    train = LabelledPixels(store.pixels, splits.train, store.index.labels[splits.train])
    with watch.stage("choose"):
        units = None if backbone.pretrained is None else _units(store, near)  # without one, nothing is compared
        fit, reasons["image_fit"] = choose_fit(config, backbone, store.index, train, frame, units=units, seconds=left())
    if fit != frame.fit:
        frame = replace(frame, fit=fit)
        store = decoded(index, frame, console, watch)
        if len(store.index) != len(near.clusters):  # files have gone meanwhile
            near, findings = audited(store, console, watch)
        splits = _split(store, near, config, console, watch, earlier)
    if backbone.pretrained is None:
        own = preprocessing_of(LabelledPixels(store.pixels, splits.train, store.index.labels[splits.train]))
        frame = replace(frame, mean=own.mean, std=own.std)
    fixed = [store.index.fixes.sentence()] if store.index.fixes is not None else []
    for text in (*fixed, *(f.sentence() for f in findings), *splits.notes):
        console.say(f"  {text}")
    return Prepared(store, near, findings, splits, frame, backbone, reasons)


def _units(store: Store, near: NearDuplicates) -> NDArray[np.int64]:
    return units_of(store.index, np.arange(len(store.index)), near.clusters)


def _split(
    store: Store,
    near: NearDuplicates,
    config: Config,
    console: Console,
    watch: Stopwatch,
    earlier: Mapping[str, str] | None,
) -> Splits:
    with watch.stage("split"), console.stage("Splitting"):
        return split(store.index, config.seed, clusters=near.clusters, earlier=earlier)


def indexed(read: Callable[[Tally], ImageIndex], console: Console, watch: Stopwatch) -> ImageIndex:
    """Read the index, and show how far it is."""
    with watch.stage("read"), console.stage("Reading") as advance:
        return read(counting(advance))


def decoded(index: ImageIndex, frame: Preprocessing, console: Console, watch: Stopwatch) -> Store:
    """Decode the images, or find them decoded."""
    with watch.stage("decode"), console.stage("Decoding") as advance:
        return decode(
            index, frame.image_size, cache=cache_folder(), fit=frame.fit, interpolation=frame.interpolation,
            advance=counting(advance),
        )  # fmt: skip


def audited(store: Store, console: Console, watch: Stopwatch) -> tuple[NearDuplicates, tuple[Finding, ...]]:
    """Look at the images after decoding, which alone tells which of them can be used."""
    with watch.stage("audit"), console.stage("Auditing") as advance:
        near = find_near_duplicates(store.index, store.pixels, lambda share: advance(share, "near-duplicates"))
        return near, audit(store.index, store.pixels, near)


def tidy_cache(prepared: Prepared, console: Console) -> None:
    """Keep the decoded images of all runs within bounds; a finished run is none the worse where that fails."""
    try:
        for removed in prune(cache_folder(), CACHE_CEILING_BYTES, keep=[prepared.store.folder]):
            console.say(f"  removed {removed}, the decoded images longest unused, to keep the cache within bounds")
    except (OSError, ResourceError) as error:
        console.say(f"  The cache could not be kept within bounds: {error}")


def counting(advance: Advance) -> Tally:
    """Progress told as so many done of so many."""
    return lambda done, found: advance(done / max(found, 1), f"{done:,} of {found:,}")
