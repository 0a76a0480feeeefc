"""Work of fixed shapes, captured once as a CUDA graph and replayed, as a serving engine would run it."""

from __future__ import annotations

from collections.abc import Callable

import torch


def graph_of(work: Callable[[], object], device: torch.device) -> torch.cuda.CUDAGraph:
    """Captures work; it is run once before.

    Args:
        work: Without a wait for the device, and with the same shapes each time.
        device: CUDA.
    """
    side = torch.cuda.Stream(device)
    side.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(side):
        work()  # whatever is made on the first call must not be captured
    torch.cuda.current_stream(device).wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work()
    return graph
