"""Pruners: methods that drop rows of images between two layers of the language model, and a registry of them."""

from llava.model.language_pruning.image_rows import ImageRows
from llava.model.language_pruning.pruned_cache import PrunedCache
from llava.model.language_pruning.registry import PRUNERS, BoundPruner, Pruner, register_pruner
from llava.model.language_pruning.schedule import Schedule, Stage
from llava.model.language_pruning.stage_view import StageView

__all__ = [
    "PRUNERS",
    "BoundPruner",
    "ImageRows",
    "PrunedCache",
    "Pruner",
    "Schedule",
    "Stage",
    "StageView",
    "register_pruner",
]
