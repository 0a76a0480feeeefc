"""Which attention is taken when nobody asks for one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from llava import load_pretrained_model
from llava.model import attention

GPU = torch.device("cuda")


@pytest.mark.parametrize(
    ("installed", "device", "dtype", "expected"),
    [
        ({2, 3}, GPU, torch.bfloat16, "flash_attention_3"),
        ({2}, GPU, "float16", "flash_attention_2"),
        (set(), GPU, torch.float16, "sdpa"),
        ({2, 3}, GPU, torch.float32, "sdpa"),
        ({2, 3}, GPU, None, "sdpa"),
        ({2, 3}, torch.device("cpu"), torch.bfloat16, "sdpa"),
    ],
)
def test_flash_attention_where_it_is_installed_and_runs(
    monkeypatch: pytest.MonkeyPatch,
    installed: set[int],
    device: torch.device,
    dtype: torch.dtype | str | None,
    expected: str,
) -> None:
    monkeypatch.setattr(attention, "is_flash_attn_2_available", lambda: 2 in installed)
    monkeypatch.setattr(attention, "is_flash_attn_3_available", lambda: 3 in installed)
    assert attention.default_attention(device, dtype) == expected


def test_a_loaded_model_has_it(oracle_dir: Path) -> None:
    for asked, expected in ((None, "sdpa"), ("eager", "eager")):
        model = load_pretrained_model(oracle_dir / "tiny-llava-v1.5", device="cpu", attn_implementation=asked)[1]
        assert model.model.language_model.config._attn_implementation == expected
