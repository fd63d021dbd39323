"""Pages: a layer, a result, a network, a circuit or a sweep as one HTML file that a colleague can open."""

from tensornet_interp.contents import explain_missing_names
from tensornet_interp.pages.features import write_feature_pages
from tensornet_interp.pages.writing import write_report

__all__ = ["write_feature_pages", "write_report"]

explain_missing_names(__name__)
