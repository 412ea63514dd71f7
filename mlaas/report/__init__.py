"""The report of a run: plots and the page. Fill a `ReportData`, call `write_report`."""

from mlaas.report.data import BranchRead, FeatureHistogram, FileRead, ModelCard, OnnxParity, ReportData, Scores
from mlaas.report.histograms import FeatureHistograms
from mlaas.report.write import write_report

__all__ = ["BranchRead", "FeatureHistogram", "FeatureHistograms", "FileRead", "ModelCard", "OnnxParity", "ReportData", "Scores", "write_report"]
