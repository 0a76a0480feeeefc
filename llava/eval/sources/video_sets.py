"""Where the benchmarks about videos are had. Questions are fetched where their publisher offers them; videos never are.

Their owners ask for consent first (Ego4D's licence, Video-MME's terms, those of the data sets that MVBench's clips
are from), publish them on disks that no program should read (Google, Baidu), or have them on YouTube. So it is said
where each is had, and looked at what is there.
"""

from __future__ import annotations

from dataclasses import dataclass

from llava.data.prepare.catalog import RemoteFile
from llava.eval.metrics.mvbench import TASKS
from llava.eval.sources.published import PublishedFiles

_ACTIVITYNET = (
    "https://raw.githubusercontent.com/MILVLG/activitynet-qa/2cf80aeb4e45955e53404e1716d3b9c0b1cbd72f/dataset"
)
_EGOSCHEMA = "https://raw.githubusercontent.com/egoschema/EgoSchema/505c787376b5e066d0ae406d0e0d41245cebba15"
_MVBENCH = "https://huggingface.co/datasets/OpenGVLab/MVBench/resolve/a776e554280b99b70f00cc3eacd69a65e0727efc/json"
_VIDEO_LLAVA = "https://github.com/PKU-YuanGroup/Video-LLaVA/blob/main/TRAIN_AND_VALIDATE.md"


@dataclass(frozen=True)
class VideoSet:
    """What a benchmark needs.

    Attributes:
        videos: Where its clips belong, below the data root.
        where: Where they are had, and under which terms.
        questions: What is fetched; None where the questions come with the clips.
    """

    videos: str
    where: str
    questions: PublishedFiles | None = None


def _files(folder: str, base: str, *names: str) -> PublishedFiles:
    return PublishedFiles(
        tuple(RemoteFile(f"{folder}/{name}", f"{base}/{name}", folder.split("/")[0], None) for name in names)
    )


def _zero_shot(name: str, clips: str, more: str) -> VideoSet:
    folder = f"GPT_Zero_Shot_QA/{name}_Zero_Shot_QA"
    return VideoSet(
        f"{folder}/{clips}",
        f"{name}_Zero_Shot_QA of {_VIDEO_LLAVA} (Google or Baidu disk), questions and clips; {more}",
    )


_MSVD = _zero_shot("MSVD", "videos", "the clips are YouTube's, collected by Microsoft Research for research")
_MSRVTT = _zero_shot("MSRVTT", "videos/all", "the clips are YouTube's, collected by Microsoft Research for research")
_TGIF = _zero_shot("TGIF", "mp4", "the GIFs are Tumblr's; https://github.com/YunseokJANG/tgif-qa lists them")
_ACTIVITYNET_SET = VideoSet(
    "GPT_Zero_Shot_QA/Activitynet_Zero_Shot_QA/all_test",
    f"Activitynet_Zero_Shot_QA of {_VIDEO_LLAVA} (Baidu disk), or http://activity-net.org/download.html; the questions "
    "are for non-commercial use",
    _files("GPT_Zero_Shot_QA/Activitynet_Zero_Shot_QA", _ACTIVITYNET, "test_q.json", "test_a.json"),
)
_VIDEOMME = VideoSet(
    "videomme/data",
    "https://huggingface.co/datasets/lmms-lab/Video-MME (questions in videomme/, videos in archives), for academic "
    "research only; its terms forbid copies without approval",
)

VIDEO_SETS: dict[str, VideoSet] = {
    **dict.fromkeys(("activitynet_qa", "activitynet_qa_lmms", "activitynet_qa_short"), _ACTIVITYNET_SET),
    "egoschema_subset": VideoSet(
        "egoschema/videos",
        "https://github.com/egoschema/EgoSchema (Kaggle, Google disk); clips of Ego4D, whose licence is to be signed "
        "first (https://ego4d-data.org)",
        _files("egoschema", _EGOSCHEMA, "questions.json", "subset_answers.json"),
    ),
    **dict.fromkeys(("msrvtt_qa", "msrvtt_qa_short"), _MSRVTT),
    **dict.fromkeys(("msvd_qa", "msvd_qa_short"), _MSVD),
    "mvbench": VideoSet(
        "mvbench",
        "branch `video` of https://huggingface.co/datasets/OpenGVLab/MVBench; clips of 11 data sets, each with terms "
        "of its own",
        _files("mvbench/json", _MVBENCH, *(f"{task}.json" for task in TASKS)),
    ),
    **dict.fromkeys(("tgif_qa", "tgif_qa_short"), _TGIF),
    **dict.fromkeys(("videomme", "videomme_lmms"), _VIDEOMME),
}
"""By task."""
