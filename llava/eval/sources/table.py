"""Which Hub datasets hold which benchmark.

Ids, configs and splits are those of lmms-eval's task files (lmms_eval/tasks/<task>/*.yaml), which name the datasets
below `lmms-lab-encoder/` since July 2026 and named them below `lmms-lab/` before. Revisions are not pinned: None takes
the newest, and what was taken is written into the results.
"""

from __future__ import annotations

from dataclasses import dataclass

NAMESPACES = ("lmms-lab", "lmms-lab-encoder")


@dataclass(frozen=True)
class HubTable:
    """One table of a dataset.

    Attributes:
        name: The dataset, below each of `namespaces`.
        split: Which split.
        config: Which config; None for the only one.
        originals: Other datasets with the same columns, by the benchmark's publisher or a copy: id and config.
        revision: A commit; None is not pinned.
        namespaces: Where it is; the authors' own, if they publish it there themselves.
    """

    name: str
    split: str
    config: str | None = None
    originals: tuple[tuple[str, str | None], ...] = ()
    revision: str | None = None
    namespaces: tuple[str, ...] = NAMESPACES

    @property
    def places(self) -> list[tuple[str, str | None]]:
        """Every dataset that has this table, with its config there, in the order in which they are tried."""
        return [*((f"{namespace}/{self.name}", self.config) for namespace in self.namespaces), *self.originals]


_SEED = (HubTable("SEED-Bench", "test"),)
_SCIENCE_QA = (("derek-thomas/ScienceQA", None),)  # the whole test split; sqa_img takes its questions with images
_TEXTVQA = (HubTable("textvqa", "validation"),)
_MMMU = (HubTable("MMMU", "validation", originals=(("MMMU/MMMU", None),)),)

# By task; the writer of `llava.eval.sources.layout` that takes the tables is beside them.
TABLES: dict[str, tuple[str, tuple[HubTable, ...]]] = {
    "chartqa": ("chartqa", (HubTable("ChartQA", "test"),)),
    "gqa": (
        "gqa",
        (
            HubTable("GQA", "testdev", "testdev_balanced_instructions"),
            HubTable("GQA", "testdev", "testdev_balanced_images"),
        ),
    ),
    "llava_bench": ("llava_bench", (HubTable("llava-bench-in-the-wild", "train"),)),
    "mmbench": ("mmbench", (HubTable("MMBench", "dev", "en"),)),
    "mmbench_lmms": ("mmbench", (HubTable("MMBench", "dev", "en"),)),
    "mmbench_cn": ("mmbench_cn", (HubTable("MMBench", "dev", "cn"),)),
    "mme": ("mme", (HubTable("MME", "test"),)),
    "mmmu_val": ("mmmu", _MMMU),
    "mmmu_val_official": ("mmmu", _MMMU),
    "mmstar": ("mmstar", (HubTable("MMStar", "mmstar", namespaces=("Lin-Chen",)),)),
    "mmvet": ("mmvet", (HubTable("MMVet", "test"),)),
    "mmvet_lmms": ("mmvet", (HubTable("MMVet", "test"),)),
    "ocrbench": ("ocrbench", (HubTable("OCRBench", "test", namespaces=("echo840",)),)),
    "ocrbench_lmms": ("ocrbench", (HubTable("OCRBench", "test", namespaces=("echo840",)),)),
    "pope": ("pope", (HubTable("POPE", "test"),)),
    "refcoco_plus_val": ("refcoco_plus", (HubTable("RefCOCOplus", "val"),)),
    "refcoco_val": ("refcoco", (HubTable("RefCOCO", "val"),)),
    "refcocog_val": ("refcocog", (HubTable("RefCOCOg", "val"),)),
    "seed": ("seed", _SEED),
    "seed_image": ("seed", _SEED),
    "seed_video": ("seed", _SEED),
    "sqa_full": ("scienceqa", (HubTable("ScienceQA", "test", "ScienceQA-FULL", _SCIENCE_QA),)),
    "sqa_img": ("scienceqa", (HubTable("ScienceQA", "test", "ScienceQA-IMG", _SCIENCE_QA),)),
    "textvqa": ("textvqa", _TEXTVQA),
    "textvqa_no_ocr": ("textvqa", _TEXTVQA),
    "vizwiz": ("vizwiz", (HubTable("VizWiz-VQA", "test"),)),
    "vizwiz_val": ("vizwiz_val", (HubTable("VizWiz-VQA", "val"),)),
    "vqav2_testdev": ("vqav2_testdev", (HubTable("VQAv2", "testdev"),)),
    "vqav2_val": ("vqav2_val", (HubTable("VQAv2", "validation"),)),
}
