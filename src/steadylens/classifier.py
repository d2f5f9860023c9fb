"""The Python face of a run: `audit`, `train`, and an ImageClassifier that scikit-learn's tools understand."""

from __future__ import annotations

import shlex
import weakref
from collections.abc import Sequence
from inspect import signature
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.validation import check_is_fitted

from steadylens import files, pipeline
from steadylens.config import parse
from steadylens.console import Console
from steadylens.continuation import folder_for, source_of
from steadylens.data import manifests
from steadylens.data.fixes import with_fixes
from steadylens.data.reading import read_content
from steadylens.data.sources import ImageIndex, read_index, read_index_to_measure
from steadylens.data.trees import Read
from steadylens.deployment import artifact
from steadylens.deployment.predictor import Prediction, Predictor, load
from steadylens.errors import ConfigError, DataError
from steadylens.inputs import Images, Labels, is_pixels, is_source, labels_of, paths_of, reader_of, required, shown
from steadylens.inspection import Audit, inspect
from steadylens.metrics import balanced_accuracy
from steadylens.preparation import Stopwatch
from steadylens.report.run_folder import free_name


def audit(
    data: str | Path,
    *,
    fixes: str | Path | None = None,
    out: str | Path | None = None,
    labels: bool = False,
    quiet: bool = False,
    stopwatch: Stopwatch | None = None,
    **options: Any,  # noqa: ANN401 - each is checked by name
) -> Audit:
    """Do what `steadylens audit` does.

    Args:
        data: a folder, an archive or a manifest, by its path.
        fixes: a fixes.csv that an audit wrote and a person edited, to look at what is left.
        out: folder for audit.html, audit.json and fixes.csv; None takes a free name in the current folder.
        labels: whether to look for wrong labels too, with networks that are trained for it.
        quiet: say nothing meanwhile.
        stopwatch: already running, where start-up is to count towards the budget.
        **options: as in `config.Config`: `image_size`, at which the images are looked at (what training would take is
            the default), and for the networks that check labels all others, such as `budget="5m"`.
    """
    name = Path(data).resolve().name
    return inspect(
        with_fixes(lambda advance: read_index(data, advance=advance), fixes),
        Path(out) if out else free_name(Path(f"{name}-audit")),
        parse(options),
        labels=labels,
        train_command=shlex.join(["steadylens", "train", str(data)]),
        console=Console(quiet=quiet),
        stopwatch=stopwatch,
    )


def train(
    data: Images,
    labels: Labels = None,
    *,
    test: Any = None,  # noqa: ANN401 - as data, or a pair (data, labels)
    fixes: str | Path | None = None,
    splits: str | Path | None = None,
    out: str | Path | None = None,
    quiet: bool = False,
    **options: Any,  # noqa: ANN401 - each is checked by name
) -> pipeline.Run:
    """Do what `steadylens train` does.

    Args:
        data: a folder, an archive or a manifest, by its path; a frame of pandas, polars or Arrow with a manifest's
            columns; a list of paths; or uint8 of shape (n, height, width, 3) or (n, height, width).
        labels: (n,) for a list of paths and for pixels, else None.
        test: what to test on instead of a part of the data: as `data`, or a pair (data, labels).
        fixes: a fixes.csv that an audit wrote and a person edited.
        splits: an earlier run, or its index.parquet, whose images keep the splits that they had there.
        out: folder of the run; where it holds an unfinished run of the same images and options, that is gone on with.
            None takes a free name beside the current folder's files, or such a run among them.
        quiet: say nothing meanwhile.
        **options: as in `config.Config`, for instance `budget="5m"` or `imbalance="class-weights"`.
    """
    given = {"labels": labels, "test": test, "fixes": fixes, "splits": splits, **options}
    words = [f"{name}={shown(value)}" for name, value in given.items() if value is not None]
    call = f"steadylens.train({', '.join([shown(data), *words])})"
    config, read = parse(options), with_fixes(reader_of(data, labels_of(labels), test), fixes)
    name = Path(data).resolve().name if isinstance(data, str | Path) else "images"
    source, wanted = source_of(data, test=test, fixes=fixes, splits=splits), Path(f"{name}-run")
    run = Path(out) if out else folder_for(wanted, config, source, resume=False)
    return pipeline.train(
        read, run, config, command=call, source=source, splits_of=Path(splits) if splits else None,
        console=Console(quiet=quiet),
    )  # fmt: skip


def _require_all(index: ImageIndex) -> None:
    """Raise a DataError where images are left out: what comes back is to have a row for each."""
    if index.refusals:
        refused = "\n".join(f"{refusal.path}: {refusal.reason}" for refusal in index.refusals)
        raise DataError(f"Some images cannot be used; leave them out:\n{refused}")


class ImageClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """A classifier of images, with the same recipe, options and figures as the command line.

    Every parameter has the meaning and the default of the field of `config.Config` with its name. `out` names the
    folder that keeps the run with its report, and in which an unfinished run of the same images and options is gone on
    with; None keeps it only as long as this object. `splits` names a run or its index.parquet, whose splits are kept.

    Attributes:
        classes_: the classes, in the order of `predict_proba`'s columns: the values that `fit` was given as labels, of
            their own type. An artifact holds names only, so they are text after `load` and for a folder.
        report_: what report.json of the run says.
        run_: folder of the run; None where the classifier was loaded from an artifact.
    """

    def __init__(
        self,
        *,
        budget: float | str | None = None,
        network: str = "auto",
        weights: str | Path | None = None,
        sidecar: str | Path | None = None,
        transfer: str = "auto",
        depth: int | str = "auto",
        width: float = 1.0,
        image_size: int | str = "auto",
        image_fit: str = "auto",
        imbalance: str = "auto",
        minority_augment: float | str = "auto",
        augment: str = "auto",
        flip: str = "auto",
        mirror: str = "auto",
        members: int | str = "auto",
        l1: float = 0.0,
        l2: float | str = "auto",
        dropout: float | str = "auto",
        label_smoothing: float | str = "auto",
        mixup: float | str = "auto",
        early_stopping: int | str = "auto",
        stopping: str = "auto",
        epochs: int | None = None,
        batch_size: int | str = "auto",
        learning_rate: float | str = "auto",
        averaging: float = 0.995,
        precision: str = "auto",
        refit: bool = False,
        selection: str = "auto",
        seed: int = 0,
        device: str = "auto",
        log: str | Sequence[str] = (),
        splits: str | Path | None = None,
        out: str | Path | None = None,
        quiet: bool = True,
    ) -> None:
        self.budget = budget
        self.network = network
        self.weights = weights
        self.sidecar = sidecar
        self.transfer = transfer
        self.depth = depth
        self.width = width
        self.image_size = image_size
        self.image_fit = image_fit
        self.imbalance = imbalance
        self.minority_augment = minority_augment
        self.augment = augment
        self.flip = flip
        self.mirror = mirror
        self.members = members
        self.l1 = l1
        self.l2 = l2
        self.dropout = dropout
        self.label_smoothing = label_smoothing
        self.mixup = mixup
        self.early_stopping = early_stopping
        self.stopping = stopping
        self.epochs = epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.averaging = averaging
        self.precision = precision
        self.refit = refit
        self.selection = selection
        self.seed = seed
        self.device = device
        self.log = log
        self.splits = splits
        self.out = out
        self.quiet = quiet

    def fit(
        self,
        X: Images,  # noqa: N803 - scikit-learn's name
        y: Labels = None,
        *,
        test: Any = None,  # noqa: ANN401 - as X, or a pair (X, y)
    ) -> Self:
        """Train on a folder, an archive, a manifest or a frame; or on paths or pixels with labels.

        Args:
            X: a folder, an archive or a manifest, by its path; a frame of pandas, polars or Arrow with a manifest's
                columns; a list of paths; or uint8 of shape (n, height, width, 3) or (n, height, width).
            y: (n,) labels, text or numbers, for a list of paths and for pixels, else None.
            test: what to test on instead of a part of X: as X, or a pair (X, y); for pixels, a pair of pixels.

        Raises:
            SteadylensError: see `errors`.
        """
        defaults = {name: parameter.default for name, parameter in signature(type(self)).parameters.items()}
        given = {name: value for name, value in self.get_params().items() if value != defaults[name]}
        options = {name: value for name, value in given.items() if name not in {"splits", "out", "quiet"}}
        config, labels = parse(options), labels_of(y)
        read = reader_of(X, labels, test)
        if self.out is None:
            folder = files.temporary_folder("steadylens-")
            weakref.finalize(self, files.remove, folder)
            run = folder / "run"
        else:
            run = Path(self.out)
        call = f"{self!r}.fit({', '.join(shown(value) for value in (X, y) if value is not None)})"
        splits_of = Path(self.splits) if self.splits else None
        done = pipeline.train(read, run, config, command=call, splits_of=splits_of, console=Console(quiet=self.quiet))
        self.run_: Path | None = done.folder
        self.report_: dict[str, Any] | None = done.report
        self._use(load(run), manifests.frame_labels(X) if manifests.is_frame(X) else labels)
        return self

    def predict(self, X: Images) -> NDArray[Any]:  # noqa: N803 - scikit-learn's name
        """The most probable of `classes_` for each image, (n,)."""
        probabilities = self.predict_proba(X)  # before classes_, since it says where nothing was trained
        chosen: NDArray[Any] = self.classes_[probabilities.argmax(1)]
        return chosen

    def predict_proba(self, X: Images) -> NDArray[np.float64]:  # noqa: N803 - scikit-learn's name
        """The calibrated probability of each class, (n, classes).

        Raises:
            DataError: an image cannot be read; all such are named.
        """
        check_is_fitted(self, "classes_")
        if is_pixels(X):
            return self.predictor_.probabilities_of_arrays(X)
        if is_source(X):
            index = read_index(X)
            _require_all(index)
            return self._probabilities(index.paths, index.read)
        return self._probabilities([str(path) for path in paths_of(X)], read_content)

    def _probabilities(self, paths: Sequence[str], read: Read) -> NDArray[np.float64]:
        answers = list(self.predictor_.predict_files(paths, read=read))
        refused = [f"{path}: {answer.reason}" for path, answer in answers if not isinstance(answer, Prediction)]
        if refused:
            raise DataError("Some images could not be read; leave them out:\n" + "\n".join(refused))
        rows = [list(answer.probabilities.values()) for _, answer in answers if isinstance(answer, Prediction)]
        return np.array(rows, np.float64).reshape(len(rows), len(self.classes_))

    def score(
        self,
        X: Images,  # noqa: N803 - scikit-learn's name
        y: Labels = None,
        sample_weight: None = None,
    ) -> float:
        """Balanced accuracy: the mean over classes of the share of each that is recognised.

        Args:
            X: as in `fit`; where it gives splits, its test split is measured on.
            y: (n,) labels, for a list of paths and for pixels, else None.
            sample_weight: not supported; there for scikit-learn's signature.
        """
        if sample_weight is not None:
            raise ConfigError("score takes no sample_weight: every class counts the same.")
        check_is_fitted(self, "classes_")
        labels = labels_of(y)
        if is_source(X) and labels is None:
            index = read_index_to_measure(X)
            _require_all(index)
            labels = [index.classes[i] for i in index.labels]
            probabilities = self._probabilities(index.paths, index.read)
        else:
            labels = required(labels)
            probabilities = self.predict_proba(X)
        if len(labels) != len(probabilities):
            raise DataError(f"There are {len(probabilities)} images and {len(labels)} labels. Give one label for each.")
        numbers = {name: number for number, name in enumerate(self.predictor_.classes)}
        unknown = sorted({str(label) for label in labels} - set(numbers))
        if unknown:
            raise DataError(f"The classifier does not know the classes {', '.join(unknown)}.")
        truth = np.array([numbers[str(label)] for label in labels])
        return balanced_accuracy(truth, probabilities.argmax(1), len(numbers))

    def save(self, folder: str | Path) -> None:
        """Write the artifact to a folder, in place of one that is there.

        Raises:
            ResourceError: it cannot be written.
        """
        check_is_fitted(self, "classes_")
        kept = self.predictor_.artifact
        artifact.pack(
            Path(folder),
            kept.network,
            spec=kept.spec,
            classes=kept.classes,
            preprocessing=kept.preprocessing,
            temperature=kept.temperature,
            scores=kept.document["scores"],
            recipe=kept.document["recipe"],
        )

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """A classifier from a run's folder or from an artifact.

        Raises:
            ArtifactError: there is none, or it is damaged.
        """
        classifier = cls()
        classifier._use(load(path), None)
        classifier.run_, classifier.report_ = None, None
        return classifier

    def _use(self, predictor: Predictor, labels: list[Any] | None) -> None:
        own = {str(label): label for label in labels or predictor.classes}
        self.predictor_ = predictor
        self.classes_ = np.array([own[name] for name in predictor.classes])
