"""The Python face of a run: `train`, and an ImageClassifier that scikit-learn's tools understand."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.validation import check_is_fitted

from steadylens import pipeline
from steadylens.config import parse
from steadylens.console import Console
from steadylens.data.sources import ImageIndex, index_arrays, index_paths, read_index
from steadylens.deployment import artifact
from steadylens.deployment.predictor import Prediction, Predictor, load
from steadylens.errors import ConfigError, DataError
from steadylens.metrics import balanced_accuracy
from steadylens.report.run_folder import free_name

Images = str | Path | Sequence[str | Path] | NDArray[np.uint8]


def train(
    data: str | Path,
    *,
    test: str | Path | None = None,
    out: str | Path | None = None,
    quiet: bool = False,
    **options: Any,  # noqa: ANN401 - each is checked by name
) -> pipeline.Run:
    """Do what `steadylens train` does.

    Args:
        data: a folder of class folders, or of `train/`, `validation/` and `test/` folders of them.
        test: another folder, to test on.
        out: folder of the run; None takes a free name beside the current folder's files.
        quiet: say nothing meanwhile.
        **options: as in `config.Config`, for instance `budget="5m"` or `imbalance="class-weights"`.
    """
    run = Path(out) if out else free_name(Path(f"{Path(data).resolve().name}-run"))
    words = [f"{name}={value!r}" for name, value in {"test": test, **options}.items() if value is not None]
    call = f"steadylens.train({', '.join([repr(str(data)), *words])})"
    return pipeline.train(
        lambda: read_index(data, test=test), run, parse(options), command=call, console=Console(quiet=quiet)
    )


class ImageClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """A classifier of images, with the same recipe, options and figures as the command line.

    Every parameter has the meaning and the default of the field of `config.Config` with its name. `out` names the
    folder that keeps the run with its report; None keeps it only as long as this object.

    Attributes:
        classes_: names of the classes, in the order of `predict_proba`'s columns.
        report_: what report.json of the run says.
        run_: folder of the run; None where the classifier was loaded from an artifact.
    """

    def __init__(
        self,
        *,
        budget: float | str | None = None,
        network: str = "auto",
        depth: int | str = "auto",
        width: float = 1.0,
        image_size: int | str = "auto",
        imbalance: str = "auto",
        minority_augment: float | str = "auto",
        augment: str = "auto",
        flip: str = "auto",
        l1: float = 0.0,
        l2: float | str = "auto",
        dropout: float | str = "auto",
        label_smoothing: float | str = "auto",
        mixup: float | str = "auto",
        early_stopping: int | str = "auto",
        epochs: int | None = None,
        batch_size: int | str = "auto",
        learning_rate: float | str = "auto",
        averaging: float = 0.995,
        precision: str = "auto",
        seed: int = 0,
        device: str = "auto",
        out: str | Path | None = None,
        quiet: bool = True,
    ) -> None:
        self.budget = budget
        self.network = network
        self.depth = depth
        self.width = width
        self.image_size = image_size
        self.imbalance = imbalance
        self.minority_augment = minority_augment
        self.augment = augment
        self.flip = flip
        self.l1 = l1
        self.l2 = l2
        self.dropout = dropout
        self.label_smoothing = label_smoothing
        self.mixup = mixup
        self.early_stopping = early_stopping
        self.epochs = epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.averaging = averaging
        self.precision = precision
        self.seed = seed
        self.device = device
        self.out = out
        self.quiet = quiet

    def fit(
        self,
        X: Images,  # noqa: N803 - scikit-learn's name
        y: Sequence[object] | NDArray[Any] | None = None,
        *,
        test: Any = None,  # noqa: ANN401 - a folder, or a pair (images, labels)
    ) -> Self:
        """Train on a folder, on a list of paths with labels, or on uint8 arrays with labels.

        Args:
            X: a folder of class folders; or paths; or uint8 of shape (n, height, width, 3) or (n, height, width).
            y: (n,) labels; None where X is a folder, whose class folders are the labels.
            test: a folder, or for arrays a pair of images and labels, to test on instead of a part of X.

        Raises:
            SteadylensError: see `errors`.
        """
        options = {name: value for name, value in self.get_params().items() if name not in {"out", "quiet"}}
        read = self._reader(X, y, test)
        if self.out is None:
            self._folder = tempfile.TemporaryDirectory(prefix="steadylens-")
            run = Path(self._folder.name) / "run"
        else:
            run = Path(self.out)
        done = pipeline.train(read, run, parse(options), command=repr(self), console=Console(quiet=self.quiet))
        self.run_: Path | None = done.folder
        self.report_: dict[str, Any] | None = done.report
        self._use(load(run))
        return self

    def predict(self, X: Images) -> NDArray[np.str_]:  # noqa: N803 - scikit-learn's name
        """The most probable class of each image, (n,)."""
        names: NDArray[np.str_] = self.classes_[self.predict_proba(X).argmax(1)]
        return names

    def predict_proba(self, X: Images) -> NDArray[np.float64]:  # noqa: N803 - scikit-learn's name
        """The calibrated probability of each class, (n, classes).

        Raises:
            DataError: an image cannot be read; all such are named.
        """
        check_is_fitted(self, "classes_")
        if isinstance(X, np.ndarray) and X.dtype.kind not in "US":
            return self.predictor_.probabilities_of_arrays(X)
        answers = list(self.predictor_.predict_files(_paths(X)))
        refused = [f"{path}: {answer.reason}" for path, answer in answers if not isinstance(answer, Prediction)]
        if refused:
            raise DataError("Some images could not be read; leave them out:\n" + "\n".join(refused))
        rows = [[a.probabilities[c] for c in self.classes_] for _, a in answers if isinstance(a, Prediction)]
        return np.array(rows)

    def score(
        self,
        X: Images,  # noqa: N803 - scikit-learn's name
        y: Sequence[object] | NDArray[Any] | None = None,
        sample_weight: None = None,
    ) -> float:
        """Balanced accuracy: the mean over classes of the share of each that is recognised.

        Args:
            X: a folder of class folders, or as in `predict`.
            y: (n,) labels; None where X is a folder.
            sample_weight: not supported; there for scikit-learn's signature.
        """
        if sample_weight is not None:
            raise ConfigError("score takes no sample_weight: every class counts the same.")
        if y is None:
            index = read_index(_folder(X))
            X, y = list(index.paths), [index.classes[i] for i in index.labels]  # noqa: N806 - scikit-learn's name
        predicted = self.predict(X)
        numbers = {name: number for number, name in enumerate(self.classes_)}
        unknown = sorted({str(label) for label in y} - set(numbers))
        if unknown:
            raise DataError(f"The classifier does not know the classes {', '.join(unknown)}.")
        truth = np.array([numbers[str(label)] for label in y])
        return balanced_accuracy(truth, np.array([numbers[name] for name in predicted]), len(numbers))

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
        classifier._use(load(path))
        classifier.run_, classifier.report_ = None, None
        return classifier

    def _use(self, predictor: Predictor) -> None:
        self.predictor_ = predictor
        self.classes_ = np.array(predictor.classes)

    @staticmethod
    def _reader(images: Images, labels: Any, test: Any) -> Callable[[], ImageIndex]:  # noqa: ANN401 - see fit
        if isinstance(images, str | Path):
            if labels is not None:
                raise ConfigError("A folder's labels are the names of its class folders: leave y out.")
            return lambda: read_index(images, test=test)
        if labels is None:
            raise ConfigError("Paths and arrays need labels: give y, one label an image.")
        if isinstance(images, np.ndarray) and images.dtype.kind not in "US":
            return lambda: index_arrays(images, list(labels), test=test)
        if test is not None:
            raise ConfigError("With a list of paths, test is not supported: give a folder or arrays.")
        return lambda: index_paths([Path(p) for p in images], list(labels))


def _folder(images: Images) -> Path:
    if not isinstance(images, str | Path):
        raise ConfigError("Paths and arrays need labels: give y, one label an image.")
    return Path(images)


def _paths(images: Images) -> list[Path]:
    if isinstance(images, str | Path):
        return [Path(p) for p in read_index(images).paths]
    return [Path(p) for p in images]
