"""Processors of LLaVA and LLaVA-NeXT: pixels as LLaVA prepares them, and as many image tokens as compression leaves.

They go with the models of this package in transformers' calling convention: `pixel_values`, and in the ids an image
token for every visual token that the language model will see. What they save plain transformers loads as its own.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import torch
from torch import Tensor
from transformers import BatchFeature, PreTrainedTokenizerBase
from transformers import LlavaNextProcessor as HFLlavaNextProcessor
from transformers import LlavaProcessor as HFLlavaProcessor
from transformers.processing_utils import MultiModalData

from llava.constants import DEFAULT_IMAGE_TOKEN
from llava.images.plain_processor import standalone_image_processor, view_processor
from llava.images.processing import load_image_processor, process_images
from llava.kinds.families import FAMILIES, Family, family_of
from llava.model.checkpoints.config_adapter import read_config
from llava.model.checkpoints.files import CheckpointError, read_json
from llava.model.configuration import STORED, CompressionConfig, CompressionLike, Stored, as_compression
from llava.model.image_rules import ImageRules
from llava.model.processor_calls import REPLACEMENTS, replacements, text_options
from llava.model.processor_files import PROCESSOR_FILE, open_small_files, processor_of, saved_template, template_of
from llava.model.stages import with_plugin
from llava.plain_loading import reason
from llava.prompts.ids import PromptIds
from llava.prompts.images import beside_others, images_of_samples
from llava.prompts.tokenization import load_tokenizer, text_begins_anew_after_images

_OWN_ENTRIES = ("compression", "image_rules", "image_token_id")


class CompressedProcessor:
    """Mixed into transformers' `LlavaProcessor` and `LlavaNextProcessor`.

    Make one with `from_pretrained`, or of a model that is there with `for_model`. A processor counts tokens by a
    compression of its own: after `model.set_compression(...)` say `processor.set_compression(model.compression)`. If
    the two differ, the model refuses the ids.

    Attributes:
        tokenizer: A copy of the model's, which pads on the left.
        image_processor: What makes the same pixels in plain transformers.
        image_rules: How images are cut and counted.
        image_token_id: Stands in the ids once for each visual token.
    """

    model_type: ClassVar[str]
    image_token: str
    image_token_id: int
    image_processor: Any
    tokenizer: Any
    chat_template: Any
    skip_tensor_conversion: Sequence[str]

    def __init__(
        self,
        image_processor: Any,
        tokenizer: PreTrainedTokenizerBase,
        patch_size: int | None = None,
        vision_feature_select_strategy: str | None = None,
        chat_template: str | None = None,
        image_token: str = DEFAULT_IMAGE_TOKEN,
        num_additional_image_tokens: int = 0,
        compression: CompressionLike = None,
        image_rules: ImageRules | Mapping[str, Any] | None = None,
        image_token_id: int | None = None,
    ) -> None:
        if image_rules is None or image_token_id is None:
            raise ValueError(
                f"make it with {type(self).__name__}.from_pretrained(folder) or .for_model(model, tokenizer)"
            )
        rules = image_rules if isinstance(image_rules, ImageRules) else ImageRules.from_dict(image_rules)
        tokenizer = copy.deepcopy(tokenizer)
        tokenizer.padding_side = "left"  # so that `generate` and pipelines may batch
        super().__init__(  # type: ignore[call-arg]
            standalone_image_processor(image_processor, rules.aspect_ratio, rules.layout.pinpoints, self.family),
            tokenizer,
            vision_feature_select_strategy="default" if rules.drops_cls else "full",
            chat_template=chat_template,
            image_token=image_token,
            **self.counting(rules),
        )
        self.image_rules = rules
        self.image_token_id = image_token_id
        self._prompt_ids()  # refuses another model's tokenizer
        self.set_compression(compression)

    @staticmethod
    def counting(rules: ImageRules) -> dict[str, Any]:
        """What transformers' own processor of the family counts an image's tokens by: keywords of its `__init__`."""
        layout = rules.layout
        patch_size = layout.tile_size // layout.patches_per_side
        return {"patch_size": patch_size, "num_additional_image_tokens": int(rules.has_cls)}

    @classmethod
    def for_model(
        cls, model: Any, tokenizer: PreTrainedTokenizerBase | None = None, image_processor: Any = None
    ) -> Any:
        """Makes the processor of a model, with the compression that the model has now.

        Args:
            model: Of this package.
            tokenizer: Its tokenizer, as `load_pretrained_model` returns it; by default that of its checkpoint.
            image_processor: Its image processor; by default that of its checkpoint.

        Raises:
            ValueError: The model is of the other kind; or its tokenizer is not known, for it was not loaded, or its
                embedding was resized since.
        """
        image_processor = image_processor or model.image_processor
        if tokenizer is None and model.tokenizer_folder is not None:
            tokenizer = load_tokenizer(model.tokenizer_folder)
        if image_processor is None and model.processor_folder is not None:
            image_processor = processor_of(model.config, model.processor_folder)
        if tokenizer is None or image_processor is None:
            raise ValueError(
                "the model's tokenizer or image processor is not known: it was not loaded from a checkpoint, or its "
                "token embedding was resized since; say for_model(model, tokenizer=..., image_processor=...)"
            )
        return cls._made_of(model.config, tokenizer, image_processor, "the model")

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: Any,
        *,
        compression: CompressionLike | Stored = STORED,
        **hub_options: Any,
    ) -> Any:
        """Loads the processor of a checkpoint in either format, or a saved one.

        Args:
            pretrained_model_name_or_path: A folder, or a repository on the Hub, of which no weights are fetched.
            compression: Not given: that of the `config.json` in the folder, the model's; in a folder without one, the
                one that the processor was saved with.
            **hub_options: `revision`, `cache_dir`, `token`, ...; `subfolder`.

        Raises:
            CheckpointError: It cannot be had, holds the other kind of model, or an entry is not what it should be.
            TypeError: An option is not known here.
        """
        made = cls._of_folder(open_small_files(pretrained_model_name_or_path, hub_options))
        if not isinstance(compression, Stored):
            made.set_compression(compression)
        return made

    @classmethod
    def _of_folder(cls, folder: Path) -> Any:
        if (folder / "config.json").is_file():
            config, processor_folder = read_config(folder)
            try:
                tokenizer, image_processor = load_tokenizer(folder), processor_of(config, processor_folder)
            except (OSError, ValueError) as error:
                raise CheckpointError(
                    f"{folder}: has no whole processor: {error}. Of a projector or an adapter load the model, and say "
                    f"{cls.__name__}.for_model(model)"
                ) from error
            return cls._made_of(config, tokenizer, image_processor, str(folder), saved_template(folder))
        entries = read_json(folder / PROCESSOR_FILE)
        if entries.get("processor_class") != cls.__name__ or "image_rules" not in entries:
            raise CheckpointError(
                f"{folder}: {PROCESSOR_FILE} is of a {entries.get('processor_class')}, and says "
                f"{'image_rules' if 'image_rules' in entries else 'no image_rules'}; a {cls.__name__} of this package "
                "has them, or lies beside its model's config.json"
            )
        try:
            own: dict[str, Any] = {name: entries.get(name) for name in _OWN_ENTRIES}
            template = saved_template(folder)
            return cls(load_image_processor(folder), load_tokenizer(folder), chat_template=template, **own)
        except OSError as error:  # transformers' word for an image processor that is not there
            raise CheckpointError(f"{folder}: {PROCESSOR_FILE}: {reason(error)}") from error
        except CheckpointError:
            raise
        except (TypeError, ValueError) as error:
            raise CheckpointError(f"{folder}: {PROCESSOR_FILE}: {error}") from error

    @classmethod
    def _made_of(
        cls, config: Any, tokenizer: Any, image_processor: Any, where: str, chat_template: str | None = None
    ) -> Any:
        if config.model_type != cls.model_type:
            other = family_of(config).processor_class.partition(":")[2]
            raise CheckpointError(f"{where} is a {config.model_type}, which takes a {other}, not a {cls.__name__}")
        try:
            rules = ImageRules.from_config(config)
            if chat_template is None and rules.layout.rule == "transformers":
                chat_template = tokenizer.chat_template
            return cls(
                image_processor,
                tokenizer,
                chat_template=chat_template or template_of(config, tokenizer),
                compression=getattr(config, "compression", None),
                image_rules=rules,
                image_token_id=config.image_token_id,
            )
        except (TypeError, ValueError) as error:
            raise CheckpointError(f"{where}: config.json: {error}") from error

    @property
    def family(self) -> Family:
        """The family of its models."""
        return FAMILIES.get(self.model_type)

    @property
    def compression(self) -> CompressionConfig | None:
        """What the model is expected to keep of an image; None when it keeps every visual token."""
        return self._compression

    def set_compression(self, compression: CompressionLike) -> None:
        """Changes how many tokens an image is given; the model needs the same.

        Args:
            compression: `model.compression`, or anything that `model.set_compression` takes.

        Raises:
            ValueError: The method is unknown, or the budget does not fit the tower, or is adaptive: the tokens are
                written before an image is seen.
        """
        budget = as_compression(compression)
        if budget is not None and budget.adaptive is not None:
            raise ValueError(
                f"compression {budget}: a processor writes an image's tokens before the picture can say how many there "
                f"are; give images= to the model (LLaVA's convention), or a fixed budget such as "
                f"{budget.with_total(budget.num_tokens)}"
            )
        self.image_rules.check(budget)
        self._compression = None if budget is None else with_plugin(budget)

    def num_visual_tokens(
        self, image_sizes: Sequence[tuple[int, int]], per_prompt: Sequence[int] | None = None
    ) -> list[int]:
        """How many tokens stand for each image.

        Args:
            image_sizes: (w, h) of each, before padding.
            per_prompt: How many of them each prompt has, in order; None: each image stands in a prompt of its own.
        """
        rules, several = self.image_rules, beside_others(per_prompt, len(image_sizes))
        return [
            rules.num_tokens(size, self.compression, beside_others=beside)
            for size, beside in zip(image_sizes, several, strict=True)
        ]

    def __call__(
        self, images: Any = None, text: Any = None, videos: Any = None, audio: Any = None, **kwargs: Any
    ) -> Any:
        """Prepares prompts and images for `forward` and `generate`.

        Args:
            images: PIL images, paths, URLs or uint8 arrays (H, W, 3): one, a list in the order of the `<image>`s, or a
                list of lists, one for each text.
            text: A prompt or a list of prompts, with one `<image>` for each image.
            videos: Not supported.
            audio: Not supported.
            **kwargs: Options of the tokenizer: `return_tensors`, `padding`, `add_special_tokens`, ...

        Returns:
            `input_ids` and `attention_mask` (B, L), and with images `pixel_values` (N, 3, H, W); for tiles
            (N, T, 3, H, W), padded to the largest T, and `image_sizes` (N, 2), (h, w) as transformers has it; and where
            several images of a prompt are not tiled `batch_num_images`, the images of each prompt that has any. With
            `return_text_replacement_offsets` also `text_replacement_offsets`, see `replacements`.

        Raises:
            ValueError: Texts and images do not go together, or an option is not supported.
            UnreadableImageError: An image cannot be read.
        """
        if videos is not None or audio is not None:
            raise ValueError("a LLaVA takes text and images, no videos and no audio")
        if images is None and text is None:
            raise ValueError("give text, images, or both")
        options = text_options(kwargs)
        wants_places = options.pop(REPLACEMENTS, False)
        texts = None if text is None else [text] if isinstance(text, str) else list(text)
        pictures = images_of_samples(texts, images, self.image_token, self._image_config())
        data: dict[str, Any] = {}
        per_prompt = None if texts is None else [text.count(self.image_token) for text in texts]
        if texts is not None:
            counts = self.num_visual_tokens([picture.size for picture in pictures], per_prompt)
            data |= self._prompt_ids()(texts, counts, options)
            data |= replacements(self, texts, counts) if wants_places else {}
        if pictures:
            data |= self._pixels(pictures, per_prompt)
        as_they_are = list(self.skip_tensor_conversion)
        return BatchFeature(data, tensor_type=options.get("return_tensors"), skip_tensor_conversion=as_they_are)

    def _prompt_ids(self) -> PromptIds:
        return PromptIds(self.tokenizer, self.image_token, self.image_token_id, self.image_rules.layout.rule)

    def view_processor(self) -> Any:
        """The image processor of one tile, as `llava.images.processing.process_images` takes it."""
        return view_processor(self.image_processor) if self.family.is_tiled else self.image_processor

    def _image_config(self, aspect_ratio: str | None = None) -> SimpleNamespace:
        """What a model's config would say of images."""
        rules = self.image_rules
        return SimpleNamespace(
            image_aspect_ratio=aspect_ratio or rules.aspect_ratio,
            image_grid_pinpoints=rules.layout.pinpoints,
            anyres_rule=rules.layout.rule,
        )

    def _pixels(self, pictures: Sequence[Any], per_prompt: Sequence[int] | None) -> dict[str, Tensor]:
        processor, config = self.view_processor(), self._image_config()
        if not self.image_rules.is_tiled:
            pixels = process_images(pictures, processor, config)
            assert isinstance(pixels, Tensor)
            return {"pixel_values": pixels}
        several = [False] * len(pictures)
        sizes = torch.tensor([[picture.height, picture.width] for picture in pictures])
        more = {"image_sizes": sizes}
        if not self.family.tiles_several:
            several = beside_others(per_prompt, len(pictures))
            given = per_prompt or [1] * len(pictures)
            more["batch_num_images"] = torch.tensor([count for count in given if count])
        tiles = [
            process_images([picture], processor, self._image_config("pad") if beside else config)
            for picture, beside in zip(pictures, several, strict=True)
        ]
        pixels = torch.nn.utils.rnn.pad_sequence([image.flatten(0, -4) for image in tiles], batch_first=True)  # type: ignore[union-attr]
        return {"pixel_values": pixels, **more}

    def _get_num_multimodal_tokens(self, image_sizes: Any = None, **kwargs: Any) -> MultiModalData:
        """What servers ask, (h, w) of each image."""
        if image_sizes is None:
            return MultiModalData()
        counts = self.num_visual_tokens([(int(width), int(height)) for height, width in image_sizes])
        return MultiModalData(num_image_tokens=counts, num_image_patches=[1] * len(counts))

    def save_pretrained(self, save_directory: Any, push_to_hub: bool = False, **kwargs: Any) -> Any:
        """Transformers' `save_pretrained`; plain transformers then makes the ids of this processor.

        Args:
            save_directory: Folder to write.
            push_to_hub: Must be False: `push_to_hub(repo_id)` sends what is saved here.
            **kwargs: For transformers' `save_pretrained`.

        Raises:
            ValueError: `push_to_hub` is True, or the tokenizer got tokens that the processor does not know of.
        """
        if push_to_hub:
            raise ValueError("save_pretrained(push_to_hub=True) is not supported; say processor.push_to_hub(repo_id)")
        self._prompt_ids()  # what cannot be used cannot be saved
        written = super().save_pretrained(save_directory, **kwargs)  # type: ignore[misc]
        file = Path(save_directory) / "tokenizer.json"
        if self.image_rules.layout.rule == "llava" and file.is_file():
            text_begins_anew_after_images(file)
        return written

    def to_dict(self) -> dict[str, Any]:
        """What `save_pretrained` writes into processor_config.json: transformers' entries, and this package's."""
        rules, compression = self.image_rules.to_dict(), self.compression
        entries = super().to_dict()  # type: ignore[misc]
        return {
            **entries,
            "compression": None if compression is None else compression.to_dict(),
            "image_rules": rules,
            "image_token_id": self.image_token_id,
        }


class LlavaProcessor(CompressedProcessor, HFLlavaProcessor):
    """The processor of LLaVA-1.5."""

    model_type = "llava"


class LlavaNextProcessor(CompressedProcessor, HFLlavaNextProcessor):
    """The processor of LLaVA-NeXT."""

    model_type = "llava_next"


__all__ = ["CompressedProcessor", "LlavaNextProcessor", "LlavaProcessor"]
