"""Pictures of what an LSTM is, did and learnt; they need matplotlib: ``pip install 'lstm-rs[plot]'``.

`cell_diagram` draws a cell, `gates` and `unit` what its gates did, out of a tape, `forecast`, `anomaly` and `history`
what came of it. Each takes `ax` and returns the Axes that it drew on, sets no style, and never shows or saves.
matplotlib is imported by the first call; pyplot only where `ax` is left out.
"""

from lstm_rs.plot._cell import cell_diagram
from lstm_rs.plot._gates import gates, unit, unit_order
from lstm_rs.plot._series import anomaly, forecast, history

__all__ = ["anomaly", "cell_diagram", "forecast", "gates", "history", "unit", "unit_order"]
