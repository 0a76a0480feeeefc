"""A conversation about images: images are encoded once, and a later turn computes only what is new."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers import DynamicCache, StoppingCriteria, StoppingCriteriaList, TextStreamer

from llava.constants import DEFAULT_IMAGE_TOKEN
from llava.conversation import conversation_template
from llava.images.source import ImageSource
from llava.inference import GenerationOptions, Inference
from llava.inference.first_logits import FirstLogits, NotFiniteError
from llava.inference.prefix import PromptPrefix, fill_cache, prefix_in, prefix_length, supports_prefixes
from llava.inference.seen_images import SeenImage
from llava.inference.visuals import video_places
from llava.prompts.around import check_fits, check_text, count_tokens, end_token_ids, place_images

# Stands for the model's last answer where only the template's text around it is wanted; in no template.
_ANSWER_MARK = "\N{SYMBOL FOR UNIT SEPARATOR}"


class ChatImages(Protocol):
    """What a conversation is told of its images."""

    @property
    def chooses_by_question(self) -> bool:
        """Whether what is kept of them depends on what is asked; known once there are features."""

    def features(self, text: str) -> list[Tensor]:
        """(K, D) of each image, for the question that it is shown with."""


class EncodedOnce:
    """Images that are opened and encoded when they are first asked about, under the model's own compression."""

    def __init__(self, inference: Inference, images: Sequence[ImageSource]) -> None:
        """Takes the images; raises nothing yet."""
        self._inference = inference
        self._images = images
        self._seen: list[SeenImage] | None = None

    @property
    def chooses_by_question(self) -> bool:
        """As `ChatImages` has it."""
        return any(image.features is None for image in self._seen or [])

    def features(self, text: str) -> list[Tensor]:
        """As `ChatImages` has it.

        Raises:
            UnreadableImageError: An image cannot be read (first time).
        """
        return self._inference.features_for(self.look(), text)

    def look(self) -> list[SeenImage]:
        """Opens and encodes the images, the first time; raises as `features`."""
        if self._seen is None:
            self._seen = self._inference.look_at(self._images)
        return self._seen


class Chat:
    """Many turns about the same images.

    The ids of the conversation only grow: what the model said stays as the ids it said it with, and is never tokenised
    again, so the kept cache is that of a fresh run over the whole conversation.

    Attributes:
        token_ids: The conversation so far, images as -200.
        messages: (user's text, answer) of every finished turn.
        answer_spans: Where in `token_ids` each answer begins and ends; what precedes it is what it was given to.
    """

    def __init__(
        self, inference: Inference, images: Sequence[ImageSource] = (), seen: ChatImages | None = None
    ) -> None:
        """Begins a conversation.

        Args:
            inference: The model.
            images: What it is about; they are put before the first message, and encoded when it comes.
            seen: The same images where something else than the model's own compression says what is kept of them.
        """
        self.inference = inference
        self.images = tuple(images)
        self.token_ids: list[int] = []
        self.messages: list[tuple[str, str]] = []
        self.answer_spans: list[tuple[int, int]] = []
        self._conversation = conversation_template(inference.conv_mode).copy()
        self._seen: ChatImages = EncodedOnce(inference, self.images) if seen is None else seen
        self._features: list[Tensor] | None = None
        self._cache: DynamicCache | None = None
        self._separator_said = False
        # Of the conversation before `restart`: the ids up to the last image, and what the model computed of them.
        self._prefix: tuple[list[int], PromptPrefix] | None = None

    @property
    def roles(self) -> tuple[str, str]:
        """What the template calls the user and the model."""
        user, model = self._conversation.roles
        return user, model

    def say(
        self,
        text: str,
        *,
        options: GenerationOptions | None = None,
        on_text: Callable[[str], None] | None = None,
        goes_on: Callable[[], bool] | None = None,
    ) -> str:
        """Takes one turn.

        Args:
            text: The user's words.
            options: Generation options; greedy by default.
            on_text: Called with pieces of the answer as they come.
            goes_on: Asked after each new token; where it says no, the answer ends as it is.

        Returns:
            The whole answer.

        Raises:
            UnreadableImageError: An image cannot be read (first turn).
            ValueError: The text names other images than there are, is empty or not Unicode, or makes the conversation
                longer than the model can see, or the model's logits are not finite; the conversation is as it was.
        """
        if not text.strip():
            raise ValueError("an empty message cannot be answered")
        check_text(text)
        self._look(text)
        turn = self._next_ids(text)
        self._check_length(turn)
        self.token_ids += turn
        try:
            new_ids = self._generate(options or GenerationOptions(), on_text, goes_on)
        except BaseException:
            # An interrupted turn leaves the cache at an unknown length; it is rebuilt at the next one.
            del self.token_ids[-len(turn) :]
            self._cache = None
            raise
        answer = self.inference.decode(new_ids)
        stop = self.inference.prompts.stop
        self._separator_said = bool(stop) and self.inference.tokenizer.decode(new_ids).rstrip().endswith(stop or "")
        self.answer_spans.append((len(self.token_ids), len(self.token_ids) + len(new_ids)))
        self.token_ids += new_ids
        self.messages.append((text, answer))
        return answer

    @property
    def visual_tokens(self) -> int:
        """Tokens that stand for the images; 0 before the first turn."""
        return sum(len(features) for features in self._features or [])

    def look_anew(self, seen: ChatImages) -> None:
        """From now on something else is kept of the same images; what was said stays, and is read anew with them.

        Args:
            seen: The images.
        """
        self._seen = seen
        self._features = self._cache = self._prefix = None

    def release(self) -> None:
        """Gives back what the language model has computed; the next turn computes all of the conversation."""
        self._cache = self._prefix = None

    def _look(self, text: str) -> None:
        """Encodes the images, once; chooses from them anew where the question decides, and then nothing is kept."""
        if self._features is None or self._seen.chooses_by_question:
            self._features = self._seen.features(text)
            if self._seen.chooses_by_question:
                self._cache = self._prefix = None

    def restart(self) -> None:
        """Begins a new conversation about the same images; neither tower nor language model sees them again."""
        shared = prefix_length(self.token_ids)
        if shared and self._cache is not None and supports_prefixes(self.inference.model):
            tokens, _ = count_tokens(self.token_ids[:shared], [len(features) for features in self._features or []])
            self._prefix = self.token_ids[:shared], prefix_in(self._cache, 0, 0, tokens)
        self._cache = None
        self._separator_said = False
        self.token_ids, self.messages, self.answer_spans = [], [], []

    def _check_length(self, turn: list[int]) -> None:
        """The model would cut a longer conversation on the right, the question first."""
        length, _ = count_tokens(self.token_ids + turn, [len(features) for features in self._features or []])
        check_fits(length, self.inference.model.config, "the conversation", "ask less, or begin a new one")

    def _next_ids(self, text: str) -> list[int]:
        """The ids that this turn adds before the answer: for a later turn also the end of the answer before it."""
        conv = self._conversation.copy()
        if not self.messages:
            config = self.inference.model.config
            videos = video_places(self.images, config)
            conv.append_message(conv.roles[0], place_images(text, len(self.images), config, videos))
            conv.append_message(conv.roles[1], None)
            return self.inference.tokenize(conv.get_prompt())
        if DEFAULT_IMAGE_TOKEN in text:
            raise ValueError(f"images come with the first message; a later one cannot name {DEFAULT_IMAGE_TOKEN}")
        conv.append_message(conv.roles[0], _ANSWER_MARK)
        conv.append_message(conv.roles[1], _ANSWER_MARK)
        conv.append_message(conv.roles[0], text)
        conv.append_message(conv.roles[1], None)
        added = conv.get_prompt().split(_ANSWER_MARK)[2]
        if self._separator_said:
            added = added.removeprefix(self.inference.prompts.stop or "")
        return list(self.inference.tokenizer(added, add_special_tokens=False).input_ids)

    @torch.inference_mode()
    def _generate(
        self,
        options: GenerationOptions,
        on_text: Callable[[str], None] | None,
        goes_on: Callable[[], bool] | None,
    ) -> list[int]:
        inference = self.inference
        # A method inside the language model keeps of the images what this question asks for: nothing can be reused.
        if inference.model.get_model().reads_by_layer:
            self._cache = None
        elif self._cache is None:
            self._cache = DynamicCache(config=inference.model.config.get_text_config())
            if self._prefix is not None and self.token_ids[: len(self._prefix[0])] == self._prefix[0]:
                fill_cache(self._cache, [self._prefix[1]])
        input_ids = torch.tensor([self.token_ids], device=inference.model.device)
        first = FirstLogits(inference.model)

        def hand_on(text: str) -> None:
            self._check(first)
            if on_text is not None:
                on_text(text)

        with first:
            output = inference.model.generate(
                input_ids,
                image_features=self._features,
                past_key_values=self._cache,
                pad_token_id=inference.pad_token_id,
                streamer=_CallbackStreamer(inference.tokenizer, hand_on) if on_text else None,
                stopping_criteria=None if goes_on is None else StoppingCriteriaList([_WhileItGoesOn(goes_on)]),
                use_cache=True,
                **(options.to_kwargs() | inference.stop_kwargs()),
            )
        self._check(first)
        new_ids: list[int] = output[0].tolist()
        # The end token is the template's to write; the cache does not hold the last new id yet.
        return new_ids[:-1] if new_ids and new_ids[-1] in end_token_ids(inference.model) else new_ids

    def _check(self, first: FirstLogits) -> None:
        """Raises where nothing that the model says means anything, before any of it is handed on."""
        if not first.is_finite:
            raise NotFiniteError(self.inference.name, self.inference.model.dtype)


class _WhileItGoesOn(StoppingCriteria):
    """Ends an answer where a function says no."""

    def __init__(self, goes_on: Callable[[], bool]) -> None:
        self._goes_on = goes_on

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        """(B,), bool, on the device of the ids (B, T)."""
        return torch.full((len(input_ids),), not self._goes_on(), device=input_ids.device)


class _CallbackStreamer(TextStreamer):
    """Hands finished pieces of text to a function."""

    def __init__(self, tokenizer: Any, on_text: Callable[[str], None]) -> None:
        super().__init__(tokenizer, skip_prompt=True, skip_special_tokens=True)
        self._on_text = on_text

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        if text:
            self._on_text(text)
