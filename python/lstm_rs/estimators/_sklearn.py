"""What scikit-learn asks of an estimator beyond its parameters; nothing here imports it before it is asked."""

from __future__ import annotations

import sys
from typing import Any

from lstm_rs._optional import need


class NotFittedError(ValueError, AttributeError):
    """A method needs a `fit` first; in the place of scikit-learn's own class where that is not there."""


def not_fitted(message: str) -> Exception:
    """scikit-learn's NotFittedError where somebody has imported it, and could catch it, else ours."""
    exceptions = sys.modules.get("sklearn.exceptions")
    kind = NotFittedError if exceptions is None else exceptions.NotFittedError
    error: Exception = kind(message)
    return error


def conversion_warning() -> type[Warning]:
    """scikit-learn's DataConversionWarning where it is imported, else the class that it is made of."""
    exceptions = sys.modules.get("sklearn.exceptions")
    kind: type[Warning] = UserWarning if exceptions is None else exceptions.DataConversionWarning
    return kind


def tags(kind: str | None, *, multi_output: bool = False, needs_y: bool = False) -> Any:
    """What `__sklearn_tags__` returns.

    Parameters
    ----------
    kind : {"classifier", "regressor", "outlier_detector", "transformer", None}
        scikit-learn's estimator_type.
    multi_output, needs_y : bool
        May y have several columns? Does `fit` need it?
    """
    utils = need("sklearn.utils", "__sklearn_tags__", "sklearn")
    return utils.Tags(
        estimator_type=kind,
        target_tags=utils.TargetTags(required=needs_y, multi_output=multi_output),
        classifier_tags=utils.ClassifierTags() if kind == "classifier" else None,
        regressor_tags=utils.RegressorTags() if kind == "regressor" else None,
        transformer_tags=utils.TransformerTags() if kind == "transformer" else None,
        input_tags=utils.InputTags(two_d_array=True, three_d_array=True),
    )
