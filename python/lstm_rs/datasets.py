"""The data that come with the package, for examples."""

from __future__ import annotations

from importlib import resources

import numpy as np

__all__ = ["load_sunspots"]


def load_sunspots() -> tuple[np.ndarray, np.ndarray]:
    """Read the yearly sunspot numbers.

    Returns
    -------
    years : (309,) int64 array
        1700 to 2008.
    numbers : (309,) float64 array
        The mean number of sunspots in each year.

    Notes
    -----
    Public domain, by the National Geophysical Data Center; the file is that of statsmodels 0.15.0.

    Examples
    --------
    >>> from lstm_rs.datasets import load_sunspots
    >>> years, numbers = load_sunspots()
    >>> int(years[numbers.argmax()]), float(numbers.max())
    (1957, 190.2)
    """
    with resources.files("lstm_rs").joinpath("data/sunspots.csv").open(encoding="ascii") as file:
        table = np.loadtxt(file, delimiter=",", skiprows=1)
    return table[:, 0].astype(np.int64), table[:, 1].copy()
