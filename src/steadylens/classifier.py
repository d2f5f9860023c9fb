"""The Python face of a run: `train`, and an ImageClassifier that scikit-learn's tools understand."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from inspect import signature
from pathlib import Path
from typing import Any, Self, TypeGuard

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.validation import check_is_fitted

from steadylens import files, pipeline
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
            y: (n,) labels, text or numbers; None where X is a folder, whose class folders are the labels.
            test: a folder, or for arrays a pair of images and labels, to test on instead of a part of X.

        Raises:
            SteadylensError: see `errors`.
        """
        defaults = {name: parameter.default for name, parameter in signature(type(self)).parameters.items()}
        given = {name: value for name, value in self.get_params().items() if value != defaults[name]}
        options = {name: value for name, value in given.items() if name not in {"out", "quiet"}}
        config, labels = parse(options), _labels(y)
        read = self._reader(X, labels, test)
        if self.out is None:
            folder = files.temporary_folder("steadylens-")
            weakref.finalize(self, files.remove, folder)
            run = folder / "run"
        else:
            run = Path(self.out)
        shown = repr(str(X)) if isinstance(X, str | Path) else f"<{len(X)} images>, <labels>"
        call = f"{self!r}.fit({shown})"
        done = pipeline.train(read, run, config, command=call, console=Console(quiet=self.quiet))
        self.run_: Path | None = done.folder
        self.report_: dict[str, Any] | None = done.report
        self._use(load(run), labels)
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
        if _is_pixels(X):
            return self.predictor_.probabilities_of_arrays(X)
        answers = list(self.predictor_.predict_files(_paths(X)))
        refused = [f"{path}: {answer.reason}" for path, answer in answers if not isinstance(answer, Prediction)]
        if refused:
            raise DataError("Some images could not be read; leave them out:\n" + "\n".join(refused))
        rows = [list(answer.probabilities.values()) for _, answer in answers if isinstance(answer, Prediction)]
        return np.array(rows, np.float64).reshape(len(rows), len(self.classes_))

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
        check_is_fitted(self, "classes_")
        labels = _labels(y)
        if labels is None:
            index = read_index(_folder(X))
            X, labels = list(index.paths), [index.classes[i] for i in index.labels]  # noqa: N806 - scikit-learn's name
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

    @staticmethod
    def _reader(images: Images, labels: list[Any] | None, test: Any) -> Callable[[], ImageIndex]:  # noqa: ANN401
        if isinstance(images, str | Path):
            if labels is not None:
                raise ConfigError("A folder's labels are the names of its class folders: leave y out.")
            return lambda: read_index(images, test=test)
        if labels is None:
            raise ConfigError("Paths and arrays need labels: give y, one label an image.")
        if _is_pixels(images):
            pair = None if test is None else _pair(test)
            return lambda: index_arrays(images, labels, test=pair)
        if test is not None:
            raise ConfigError("With a list of paths, test is not supported: give a folder or arrays.")
        paths = _paths(images)
        return lambda: index_paths(paths, labels)


def _labels(y: Any) -> list[Any] | None:  # noqa: ANN401 - whatever NumPy takes for an array
    """The labels, of one type where NumPy finds one for all of them."""
    if y is None:
        return None
    labels = np.asarray(y)
    if labels.ndim != 1:
        raise DataError(f"y must be one label an image, of shape (n,). Got the shape {labels.shape} instead.")
    return list(labels)


def _pair(test: Any) -> tuple[NDArray[np.uint8], list[Any]]:  # noqa: ANN401 - checked here
    if not (isinstance(test, tuple) and len(test) == 2 and _is_pixels(test[0]) and test[1] is not None):
        raise ConfigError("With arrays, test must be a pair (images, labels) of the same kind.")
    return test[0], _labels(test[1]) or []


def _is_pixels(images: object) -> TypeGuard[NDArray[np.uint8]]:
    return isinstance(images, np.ndarray) and images.dtype.kind not in "USO"


def _folder(images: Images) -> Path:
    if not isinstance(images, str | Path):
        raise ConfigError("Paths and arrays need labels: give y, one label an image.")
    return Path(images)


def _paths(images: Images) -> list[Path]:
    if isinstance(images, str | Path):
        return [Path(path) for path in read_index(images).paths]
    wrong = [type(path).__name__ for path in images if not isinstance(path, str | Path)]
    if wrong:
        raise ConfigError(
            f"X must be a folder, paths or an array of uint8. Got a sequence with {wrong[0]} in it instead."
        )
    return [Path(path) for path in images]
