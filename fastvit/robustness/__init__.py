"""How a classifier holds against corruptions and other distributions (paper, table 7). Needs the extra `train`."""

from fastvit.robustness.evaluation import Figure, measure, missing_sets
from fastvit.robustness.report import summarize, table, write, write_figures

__all__ = ["Figure", "measure", "missing_sets", "summarize", "table", "write", "write_figures"]
