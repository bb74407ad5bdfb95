"""How a classifier holds against corruptions and other distributions (paper, table 7). Needs the extra `train`."""

from fastvit.robustness.evaluation import measure
from fastvit.robustness.report import summarize, table, write

__all__ = ["measure", "summarize", "table", "write"]
