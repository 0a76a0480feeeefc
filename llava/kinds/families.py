"""Families of models: how a LLaVA of one kind is configured, cut into tiles, named and made."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

from llava.kinds.clips import ClipRules
from llava.kinds.registry import Registry


@dataclass(frozen=True)
class OwnParts:
    """What checkpoints of a family hold in LLaVA's format beside the parts that all LLaVAs have.

    Attributes:
        entries: Of LLaVA's config.json and its folder to entries of transformers' config that only the weights tell.
        module_name: The name of a tensor in LLaVA's files to that in the module; None for what all LLaVAs have.
        tensors: Of LLaVA's config.json, its folder and the names that its files have, by the module, to the tensors
            that lie elsewhere, by the module's names.
        folders: Of LLaVA's config.json and its folder to the folders where `tensors` finds these.
    """

    entries: Callable[[Mapping[str, Any], Path], dict[str, Any]]
    module_name: Callable[[str], str | None]
    tensors: Callable[[Mapping[str, Any], Path, Iterable[str]], dict[str, Any]]
    folders: Callable[[Mapping[str, Any], Path], list[Path]]


@dataclass(frozen=True)
class Picture:
    """What a model takes an image as, where that is more than one tile of its tower's size.

    Attributes:
        side: In pixels; it is a square.
        tiles: That the model itself makes of it.
    """

    side: int
    tiles: int


@dataclass(frozen=True)
class Family:
    """A family. Classes are given as `module:Name`, for they are heavy to import.

    Attributes:
        name: For messages.
        model_type: Of its config.json in transformers' format.
        config_class: Of this package.
        model_class: Of this package.
        processor_class: Of this package.
        transformers_model: transformers' own class, which plain transformers loads; None if it has none, and then
            `export --to hf` refuses the family.
        transformers_processor: transformers' own processor; None as above.
        image_processors: `image_processor_type` of its checkpoints in transformers' format -> the Pillow class that
            makes one view of one image: what makes tiles is not asked, they are cut here by the model's own rule.
        transformers_tiles: transformers' Pillow class that cuts the tiles of its images; None for a family without.
        transformers_ratio: Pattern of the `image_aspect_ratio` that transformers' class lays tiles out by.
        known_to_llava: Whether haotian-liu/LLaVA runs it; else `export --to llava` refuses it.
        code: Whose code reads its checkpoints of LLaVA's format, where haotian-liu/LLaVA does not.
        fits_llava: Whether a config.json of LLaVA's format is of this family; the one family without is all others'.
        part_of: `model_type` of a family whose configs this one's are some of; what fits both is then of this one.
        config_entries: Maps LLaVA's config.json and the tower's config to entries of transformers' config, in place of
            or beside what all families have; raises ValueError for an entry that is malformed.
        is_tiled: Whether images are cut into tiles of a grid; transformers' config then has pinpoints, (h, w) each.
        tiles_several: Whether each of several images of one prompt is cut into tiles; if not, it is padded to one.
        has_newline: Whether a trained `image_newline` ends rows of patches.
        merge_type: LLaVA's `mm_patch_merge_type` where a config says nothing.
        aspect_ratio: LLaVA's `image_aspect_ratio` where a config of transformers' format says nothing.
        places: Where a method of compression may stand, of `pixels`, `tower`, `projected` and `pooled`; the usual
            place first.
        keeps_cls: Whether the tower's CLS token, where it has one, reaches the compressor as a row that can be kept.
        cls_counts: Whether a kept CLS token is one of the budget's tokens; else it comes on top.
        language: Name of the language model's kind, whatever `model_type` a config of LLaVA's format says; None: that
            decides.
        refusal: Why a config of LLaVA's format that is of the family is not supported; None if it is.
        hub_names: Paths that published configs name towers by -> what they mean on the Hub.
        own_parts: An `OwnParts` of this package; None for a family whose files hold LLaVA's parts only.
        picture_of: What an image is to a model of a config; None: one tile, or tiles of a grid.
        more_flops: Operations of one image beside tower and projector, by the model's config.
        clips: How it sees videos; None if it sees none.
        read_llava: `module:function` that makes a config of LLaVA's config.json and its folder, for a family whose
            towers are not named by `mm_vision_tower`.
        image_processor: `module:function` that makes the image processor of a config; by default it is read of files.
        vision_parts: Modules of the inner model beside tower, projector and language model; they are never quantised.
        tower_in_files: What the image tower is called in files of transformers' format.
        warning: What is said when a checkpoint of it is loaded.
        no_training: Why it is not trained here; empty if it is.
        no_transformers: Why plain transformers cannot run it, where `transformers_model` is None.
    """

    name: str
    model_type: str
    config_class: str
    model_class: str
    processor_class: str
    config_entries: Callable[[Mapping[str, Any], Any], dict[str, Any]]
    transformers_model: str | None = None
    transformers_processor: str | None = None
    image_processors: Mapping[str, str] = field(default_factory=dict)
    transformers_tiles: str | None = None
    transformers_ratio: str = "anyres"
    known_to_llava: bool = False
    code: str = "LLaVA-VL/LLaVA-NeXT"
    fits_llava: Callable[[Mapping[str, Any]], bool] | None = None
    part_of: str | None = None
    is_tiled: bool = False
    tiles_several: bool = True
    has_newline: bool = False
    merge_type: str = "flat"
    aspect_ratio: str | None = None
    places: tuple[str, ...] = ("tower", "pixels", "projected")
    keeps_cls: bool = True
    cls_counts: bool = True
    language: str | None = None
    refusal: Callable[[Mapping[str, Any]], str | None] = lambda raw: None
    hub_names: Mapping[str, str] = field(default_factory=dict)
    own_parts: str | None = None
    picture_of: Callable[[Any], Picture] | None = None
    more_flops: Callable[[Any], int] = lambda config: 0
    clips: ClipRules | None = None
    read_llava: str | None = None
    image_processor: str | None = None
    vision_parts: tuple[str, ...] = ()
    tower_in_files: str = "vision_tower"
    warning: str = ""
    no_training: str = ""
    no_transformers: str = ""

    def config(self) -> Any:
        """The class of its configs."""
        return _imported(self.config_class)

    def model(self) -> Any:
        """The class of its models."""
        return _imported(self.model_class)

    def processor(self) -> Any:
        """The class of its processors."""
        return _imported(self.processor_class)

    def parts(self) -> OwnParts | None:
        """What its checkpoints hold beside LLaVA's parts."""
        return None if self.own_parts is None else _imported(self.own_parts)

    def picture(self, config: Any) -> Picture:
        """What an image that is cut into no grid of tiles is to a model of a config."""
        return Picture(int(config.vision_config.image_size), 1) if self.picture_of is None else self.picture_of(config)

    def llava_reader(self) -> Callable[[Mapping[str, Any], Path], Any] | None:
        """What makes configs of LLaVA's format; None for what all families share."""
        return None if self.read_llava is None else _imported(self.read_llava)

    def own_image_processor(self, config: Any) -> Any:
        """The image processor of a config; None where files say what it is."""
        return None if self.image_processor is None else _imported(self.image_processor)(config)


_ALL_OTHERS = "llava"  # LLaVA-1.5

FAMILIES: Registry[Family] = Registry(
    "family of models",
    builtin=(
        "llava.model.families.llava_1_5",
        "llava.model.families.llava_next",
        "llava.model.families.llava_onevision",
        "llava.model.families.mini_gemini",
        "llava.model.families.llava_next_video",
        "llava.model.families.video_llava",
    ),
)


def register_family(family: Family) -> Family:
    """Makes a family known by its `model_type`.

    Raises:
        ValueError: The name is taken, or it says of no config of LLaVA's format whether that is of the family, which
            one family of this package may do only.
    """
    if family.fits_llava is None and family.model_type != _ALL_OTHERS:
        raise ValueError(f"family {family.name!r}: fits_llava must say which config.json of LLaVA's format is of it")
    return FAMILIES.register(family.model_type, family, depth=2)


def family_of(config: Any) -> Family:
    """The family of transformers' config.

    Raises:
        ValueError: It is of none.
    """
    return FAMILIES.get(str(config.model_type))


def find_family(config: Any) -> Family | None:
    """The family of any object with a config's entries; None for LLaVA's own configs and others without one."""
    model_type = getattr(config, "model_type", None)
    return FAMILIES.find(model_type) if isinstance(model_type, str) else None


def clip_rules(config: Any) -> ClipRules:
    """How the model of a config sees videos.

    Raises:
        ValueError: Its family sees none; the message names those that do.
    """
    family = find_family(config)
    if family is None or family.clips is None:
        seeing = ", ".join(each.name for each in FAMILIES if each.clips is not None)
        raise ValueError(
            f"a {'LLaVA' if family is None else family.name} sees images and no videos; these do: {seeing}"
        )
    return family.clips.of_config(config)


def family_of_llava(raw: Mapping[str, Any]) -> Family:
    """The family of a config.json of LLaVA's format.

    Raises:
        ValueError: Several say that it is theirs.
    """
    found = [family for family in FAMILIES if family.fits_llava is not None and family.fits_llava(raw)]
    wider = {family.part_of for family in found}
    found = [family for family in found if family.model_type not in wider]
    if len(found) > 1:
        raise ValueError(f"config.json is of several families: {', '.join(family.name for family in found)}")
    return found[0] if found else FAMILIES.get(_ALL_OTHERS)


def _imported(path: str) -> Any:
    module, _, name = path.partition(":")
    return getattr(import_module(module), name)
