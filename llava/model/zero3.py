"""DeepSpeed's ZeRO-3: models that transformers splits over the processes while it builds them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from transformers.integrations import deepspeed as integration


@contextmanager
def without_zero3() -> Iterator[None]:
    """Builds whole what is built inside, though the run be under ZeRO-3: a model on the meta device has no parts."""
    reference = integration._hf_deepspeed_config_weak_ref
    config = None if reference is None else reference()
    if config is None:
        yield
        return
    integration.unset_hf_deepspeed_config()
    try:
        yield
    finally:
        integration.set_hf_deepspeed_config(config)
