"""Where rows of images come from: a loaded model, or a store and no weights at all."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from PIL.Image import Image
from torch import Tensor

from llava.encoded.errors import StoreError
from llava.encoded.serving import features_of
from llava.encoded.store import EncodedStore
from llava.images.rules import one_tile_beside_others
from llava.images.source import FrameSource, ImageSource, is_url, name_of
from llava.inference import Inference, Question
from llava.inference.prompting import PromptWriter
from llava.model.configuration import STORED, CompressionLike, Stored, as_compression
from llava.model.restore.refusals import NOT_SERVABLE
from llava.prompts.around import check_fits, count_tokens, place_images
from llava.serve.embeds.question import EmbeddedQuestion


def embed_question(inference: Inference, text: str, *images: ImageSource) -> EmbeddedQuestion:
    """A question whose images a model encodes, or reads from the store that `inference` has.

    Args:
        inference: With the compression that is wanted.
        text: The user's words; `<image>` where an image stands, else images stand in front.
        *images: Paths, URLs, encoded bytes or PIL images.

    Raises:
        ValueError: An engine cannot run the model's compression; there is a video; the text's placeholders do not match
            the images; or the prompt is longer than the model sees.
        UnreadableImageError: An image cannot be read.
        StoreMismatchError: There are stores, and none fits the model under its budget.
    """
    _check_servable(inference.model.get_model())
    question = Question(text, images)
    _refuse_videos(images)
    features = inference.features_for(inference.look_at(images), text) if images else []
    return _embedded(inference.prompts, question, features)


def embed_from_store(
    store: EncodedStore,
    prompts: PromptWriter,
    text: str,
    *images: ImageSource,
    compression: CompressionLike | Stored = STORED,
) -> EmbeddedQuestion:
    """A question whose images all come from a store; no weights are read, so whether they fit is not checked.

    Args:
        store: Of `llava.store.open`, of the stage `projected`.
        prompts: Of the model that the store was built with: `PromptWriter.of_checkpoint`.
        text: As for `embed_question`.
        *images: Paths, or bytes of images' files.
        compression: What the rows must be of, None for all tokens; of a nested store it may be smaller than what is
            stored. Not given: the store's own.

    Raises:
        StoreError: The store is of another stage, width or budget, or lacks an image.
        ValueError: As `embed_question` raises.
    """
    question = Question(text, images)
    _refuse_videos(images)
    kept = _check_store(store, prompts.config, compression)
    if len(images) > 1 and one_tile_beside_others(prompts.config):
        raise StoreError(
            f"{store.folder}: images are stored as they are alone, and this model cuts several of one prompt "
            "otherwise; leave the store out, or ask about one image"
        )
    return _embedded(prompts, question, [_rows_of(store, image, kept) for image in images])


def _rows_of(store: EncodedStore, image: ImageSource, kept: int | None) -> Tensor:
    entry = None if isinstance(image, Image | FrameSource) or is_url(image) else store.find(image)
    if entry is None:
        raise StoreError(
            f"{store.folder}: {name_of(image)} is not in the store; add it with `llava store build`, or leave the "
            "store out, and the image is encoded"
        )
    return features_of(store, entry, kept)


def _check_store(store: EncodedStore, config: Any, compression: CompressionLike | Stored) -> int | None:
    """Refuses a store of another form; returns how many rows of a nested one are taken."""
    layout, made = store.layout, store.manifest.made_with
    width = config.get_text_config().hidden_size
    if layout.stage != "projected":
        raise StoreError(
            f"{store.folder}: holds rows of the stage {layout.stage}, which the projector has still to see; build one "
            "with --stage projected"
        )
    if layout.channels != width:
        raise StoreError(
            f"{store.folder}: its rows have {layout.channels} numbers, and the language model reads {width}; take the "
            "store of this model"
        )
    if isinstance(compression, Stored):
        return None
    budget = as_compression(compression)
    wanted = None if budget is None else budget.to_dict()
    store.manifest.check({**made, "compression": wanted}, store.folder, "asked for")
    return budget.num_tokens if layout.nested and budget is not None else None


def _check_servable(model: Any) -> None:
    if model.bound_pruner is not None:
        raise ValueError(
            f"compression {model.compression}: what stands behind | works inside the language model, which an engine "
            "runs by itself; leave that part out"
        )
    if model.restores:
        raise ValueError(f"compression {model.compression}: {NOT_SERVABLE}")


def _refuse_videos(images: Sequence[ImageSource]) -> None:
    for image in images:
        if isinstance(image, FrameSource):
            raise ValueError(f"{image.name} is a video, and engines are handed images only")


def _embedded(prompts: PromptWriter, question: Question, features: Sequence[Tensor]) -> EmbeddedQuestion:
    prompt = prompts.prompt(question)
    ids = prompts.tokenize(prompt)
    length, _ = count_tokens(ids, [len(rows) for rows in features])
    check_fits(length, prompts.config, "the prompt", "ask less, or compress the images more")
    return EmbeddedQuestion(
        words=place_images(question.text, len(question.images), None),
        prompt=prompt,
        ids=tuple(ids),
        features=tuple(rows.detach().to("cpu", copy=True).contiguous() for rows in features),  # plain tensors
        image_token_id=int(prompts.config.image_token_id),
        begins_with_bos=bool(ids) and ids[0] == prompts.tokenizer.bos_token_id,
        stop=prompts.stop,
    )
