"""Turn a folder of labelled images into a classifier that you can trust and deploy.

    from steadylens import ImageClassifier, audit, load, train

Names are imported when they are first used, so that `import steadylens` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from steadylens.classifier import ImageClassifier, audit, train
    from steadylens.deployment.predictor import load

__version__ = "0.1.0"
__all__ = ["ImageClassifier", "audit", "load", "train"]

_HOMES = {
    "ImageClassifier": "steadylens.classifier",
    "audit": "steadylens.classifier",
    "load": "steadylens.deployment.predictor",
    "train": "steadylens.classifier",
}


def __getattr__(name: str) -> Any:  # noqa: ANN401 - whatever the name stands for
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'steadylens' has no attribute '{name}'")
