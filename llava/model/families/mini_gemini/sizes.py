"""The sizes of the published second tower."""

from __future__ import annotations

CONVNEXT_L = {"hidden_sizes": [192, 384, 768, 1536], "depths": [3, 3, 27, 3]}
"""Widths and depths of the stages of open_clip's `convnext_large_d_320`."""
