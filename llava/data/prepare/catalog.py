"""Which files make a data set, where they are published, and where LLaVA's layout wants them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class RemoteFile:
    """A file to download.

    Attributes:
        path: Where it goes, relative to the root.
        url: Where it is published.
        source: Name for `--only`.
        extract_to: Folder that an archive is unpacked in, relative to the root; None for what is no archive.
    """

    path: str
    url: str
    source: str
    extract_to: str | None = None


@dataclass(frozen=True)
class ImageList:
    """Images that are published one by one.

    Attributes:
        source: Name for `--only`.
        index: JSON object `{id: {"imageURL": ...}}`.
        folder: Where `<id>.jpg` go, relative to the root.
    """

    source: str
    index: RemoteFile
    folder: str


@dataclass(frozen=True)
class DatasetFiles:
    """A data set.

    Attributes:
        annotations: LLaVA's JSON.
        image_folder: Where the image paths of the JSON begin, relative to the root.
        archives: Image sets.
        image_lists: Image sets without an archive.
    """

    name: str
    summary: str
    annotations: RemoteFile
    image_folder: str
    archives: tuple[RemoteFile, ...]
    image_lists: tuple[ImageList, ...] = ()

    @property
    def sources(self) -> list[str]:
        """Names for `--only`."""
        names = [file.source for file in self.archives] + [images.source for images in self.image_lists]
        return list(dict.fromkeys(names))

    def files(self) -> list[RemoteFile]:
        """Everything with a URL of its own."""
        return [self.annotations, *self.archives, *(images.index for images in self.image_lists)]

    def moved(self, base_url: str | None, urls: Mapping[str, str]) -> DatasetFiles:
        """The same data set from other places.

        Args:
            base_url: A mirror with the layout of a prepared root: a file is at its path there.
            urls: The URL of single files, by path; they come before the mirror.

        Raises:
            ValueError: There is no such file.
        """
        known = {file.path for file in self.files()}
        unknown = sorted(set(urls) - known)
        if unknown:
            raise ValueError(
                f"--url {unknown[0]}=...: no such file in {self.name}; there are {', '.join(sorted(known))}"
            )

        def place(file: RemoteFile) -> RemoteFile:
            mirrored = file.url if base_url is None else f"{base_url.rstrip('/')}/{file.path}"
            return replace(file, url=urls.get(file.path, mirrored))

        return replace(
            self,
            annotations=place(self.annotations),
            archives=tuple(place(file) for file in self.archives),
            image_lists=tuple(replace(images, index=place(images.index)) for images in self.image_lists),
        )

    def only(self, sources: list[str]) -> DatasetFiles:
        """The part of the data set that `--only` names.

        Raises:
            ValueError: There is no such source.
        """
        unknown = [source for source in sources if source not in self.sources]
        if unknown:
            raise ValueError(f"--only {unknown[0]}: {self.name} has {', '.join(self.sources)}")
        return replace(
            self,
            archives=tuple(file for file in self.archives if file.source in sources),
            image_lists=tuple(images for images in self.image_lists if images.source in sources),
        )


# LLaVA's README names the image sets of the mixture. OCR-VQA's authors publish a list of URLs (of book covers, some of
# which vanish every year); an archive that others made of what LLaVA's authors had is the alternative.
_COCO = RemoteFile("coco/train2017.zip", "http://images.cocodataset.org/zips/train2017.zip", "coco", "coco")
_GQA = RemoteFile("gqa/images.zip", "https://downloads.cs.stanford.edu/nlp/data/gqa/images.zip", "gqa", "gqa")
_TEXTVQA = RemoteFile(
    "textvqa/train_val_images.zip",
    "https://dl.fbaipublicfiles.com/textvqa/images/train_val_images.zip",
    "textvqa",
    "textvqa",
)
_VG = tuple(
    RemoteFile(f"vg/{name}.zip", f"https://cs.stanford.edu/people/rak248/VG_100K_2/{name}.zip", "vg", "vg")
    for name in ("images", "images2")
)
_OCR_VQA_LIST = ImageList(
    "ocr_vqa",
    RemoteFile(
        "ocr_vqa/dataset.json",
        "https://drive.usercontent.google.com/download?id=1r0tyZUwGCc4wIG4RkiglCGNL_nFJjR6Q&export=download&confirm=t",
        "ocr_vqa",
    ),
    "ocr_vqa/images",
)


def llava_665k(*, ocr_vqa_archive: bool = False) -> DatasetFiles:
    """The instruction mixture of LLaVA-1.5.

    Args:
        ocr_vqa_archive: Take OCR-VQA's images from an archive on the Hub, and not from their own URLs.
    """
    archives: tuple[RemoteFile, ...] = (_COCO, _GQA, _TEXTVQA, *_VG)
    if ocr_vqa_archive:
        name = "ocr_vqa_images_llava_v15.zip"
        url = _hub_url("weizhiwang/llava_v15_instruction_images", name)
        archives = (*archives, RemoteFile(f"ocr_vqa/{name}", url, "ocr_vqa", "ocr_vqa"))
    json_name = "llava_v1_5_mix665k.json"
    return DatasetFiles(
        name="llava-665k",
        summary="LLaVA-1.5's instruction mixture: 665 K conversations; COCO, GQA, OCR-VQA, TextVQA, Visual Genome",
        annotations=RemoteFile(json_name, _hub_url("liuhaotian/LLaVA-Instruct-150K", json_name), "json"),
        image_folder=".",
        archives=archives,
        image_lists=() if ocr_vqa_archive else (_OCR_VQA_LIST,),
    )


def llava_pretrain() -> DatasetFiles:
    """The captions of LLaVA's first stage."""
    folder, repository = "LLaVA-Pretrain", "liuhaotian/LLaVA-Pretrain"
    json_name = "blip_laion_cc_sbu_558k.json"
    images = RemoteFile(f"{folder}/images.zip", _hub_url(repository, "images.zip"), "images", f"{folder}/images")
    return DatasetFiles(
        name="llava-pretrain",
        summary="LLaVA-Pretrain: 558 K images with BLIP captions, for --stage align",
        annotations=RemoteFile(f"{folder}/{json_name}", _hub_url(repository, json_name), "json"),
        image_folder=f"{folder}/images",
        archives=(images,),
    )


def _hub_url(repository: str, name: str) -> str:
    """A file of a data set on the Hub, or on the mirror that HF_ENDPOINT names."""
    from huggingface_hub import hf_hub_url

    return hf_hub_url(repository, name, repo_type="dataset")


DATASETS = {"llava-665k": llava_665k, "llava-pretrain": llava_pretrain}
