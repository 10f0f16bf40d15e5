"""Where key memories sit: one site per layer or lone parameter, with the moments it keeps."""

from nestlearn.optim.sites.base import Moments, Site, add_moment, rows, typical_sensitivity, wide
from nestlearn.optim.sites.diagonal import DiagonalSite
from nestlearn.optim.sites.embedding import EmbeddingSite
from nestlearn.optim.sites.find import find_sites, tied_head
from nestlearn.optim.sites.linear import LinearSite

__all__ = [
    "DiagonalSite",
    "EmbeddingSite",
    "LinearSite",
    "Moments",
    "Site",
    "add_moment",
    "find_sites",
    "rows",
    "tied_head",
    "typical_sensitivity",
    "wide",
]
