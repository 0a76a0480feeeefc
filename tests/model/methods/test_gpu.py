"""On a GPU: the patches of the CPU are kept, and no method waits for the device."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch

from tests.model.methods.test_device_clean import bound_at_each_place, make_features
from tests.model.own_methods import OWN_METHODS

pytestmark = pytest.mark.gpu


@contextmanager
def no_waiting() -> Iterator[None]:
    """Raises where the host waits for the device."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("method", OWN_METHODS)
def test_a_gpu_keeps_what_the_cpu_keeps_and_nothing_waits(method):
    for place, bound in bound_at_each_place(method):
        wanted, features = bound(make_features(place, "cpu")), make_features(place, "cuda")
        bound(features)  # the first call may set up libraries
        torch.cuda.synchronize()
        with no_waiting():
            kept = bound(features)
        assert torch.equal(kept.positions.cpu(), wanted.positions)
        torch.testing.assert_close(kept.tokens.cpu(), wanted.tokens, atol=1e-4, rtol=1e-4)
