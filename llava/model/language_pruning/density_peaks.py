"""Clusters by density peaks (Rodriguez and Laio, Science 2014), with the density of the k nearest (Du et al. 2016).

Shapes: B sets, N points, C clusters, D channels.
"""

from __future__ import annotations

import torch
from torch import Tensor


def cluster_means(points: Tensor, clusters: int, noise: Tensor | None = None) -> Tensor:
    """Means of clusters.

    A point is a centre if it is dense and far from any denser one; others join the nearest centre. As many neighbours
    as there are clusters tell the density.

    Args:
        points: (B, N, D).
        clusters: C, at most N.
        noise: (N,), added to the density, which parts equal ones.

    Returns:
        (B, C, D), the strongest centre's cluster first.
    """
    points = points.float()
    distance = torch.cdist(points, points) / points.shape[2] ** 0.5  # (B, N, N)
    nearest = distance.topk(clusters, dim=2, largest=False).values
    density = (-nearest.square().mean(dim=2)).exp()
    if noise is not None:
        density = density + noise
    is_denser = density.unsqueeze(1) > density.unsqueeze(2)
    farthest = distance.amax(dim=(1, 2), keepdim=True)
    apart = torch.where(is_denser, distance, farthest).amin(dim=2)
    # Of two clusters the centres are always equally strong, being each other's nearest; topk says which comes first.
    centres = (apart * density).topk(clusters, dim=1).indices
    to_centre = distance.gather(1, centres.unsqueeze(2).expand(-1, -1, distance.shape[2]))
    number = torch.arange(clusters, device=points.device).expand_as(centres)
    label = to_centre.argmin(dim=1).scatter(1, centres, number)  # (B, N)
    is_member = (label.unsqueeze(1) == number.unsqueeze(2)).to(points.dtype)  # (B, C, N)
    return is_member @ points / is_member.sum(dim=2, keepdim=True)
