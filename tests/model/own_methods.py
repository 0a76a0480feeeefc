"""This package's compression methods, without those that other tests register in the same process."""

from __future__ import annotations

from llava.model.multimodal_compressor import COMPRESSORS

OWN_METHODS = [each.name for each in COMPRESSORS if each.function.__module__.startswith("llava.")]
