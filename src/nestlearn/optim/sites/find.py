"""Which site a parameter has."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

from nestlearn.optim.sites.base import Site
from nestlearn.optim.sites.diagonal import DiagonalSite
from nestlearn.optim.sites.embedding import EmbeddingSite
from nestlearn.optim.sites.linear import LinearSite


def find_sites(model: nn.Module, parameters: Iterable[nn.Parameter]) -> list[Site]:
    """Give each of ``parameters`` the site that fits the module it belongs to.

    Args:
        model: Model that owns the parameters.
        parameters: The parameters to protect.

    Returns:
        Sites that hold every one of ``parameters`` exactly once.
    """
    wanted = {id(p): p for p in parameters}
    linears = [m for m in model.modules() if isinstance(m, nn.Linear)]
    sites: list[Site] = []

    def add(site: Site) -> None:
        sites.append(site)
        for parameter in site.parameters:
            del wanted[id(parameter)]

    for module in model.modules():
        if isinstance(module, nn.Embedding) and id(module.weight) in wanted:
            add(EmbeddingSite(module, tied_head(model, module)))
    for linear in linears:
        bias = linear.bias
        if id(linear.weight) in wanted and (bias is None or id(bias) in wanted or not bias.requires_grad):
            add(LinearSite(linear))
    for parameter in list(wanted.values()):
        add(DiagonalSite((parameter,)))
    return sites


def tied_head(model: nn.Module, embedding: nn.Embedding) -> nn.Linear | None:
    """The output layer that shares an embedding's weight, if there is one."""
    tied = (m for m in model.modules() if isinstance(m, nn.Linear) and m.weight is embedding.weight)
    return next(tied, None)
