"""CLIP's joint space of images and texts, from a second checkpoint: the text tower, and both projections.

A LLaVA holds CLIP's vision tower without them. Shapes: P patches, C channels of the tower, E of the joint space,
M parts of a text.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from llava.model.multimodal_compressor import ClipJoint
from llava.plain_loading import auto_tokenizer, clip_model
from llava.small_files import CheckpointError

_TOLERANCE = 1e-2  # a tower in half precision, against one in full
_SENTENCE = "What colour is the small cat on the left?"


class ClipText:
    """What a CLIP knows beside the vision tower. It is no part of the model, and never saved with it.

    Attributes:
        folder: Of the checkpoint.
        fingerprint: A hash of the weights that are read beside the vision tower, and of the tokens of a sentence:
            answers that depend on another CLIP are others.
    """

    def __init__(self, folder: str | Path, tower: nn.Module) -> None:
        """Loads it, and compares its vision tower with the model's.

        Args:
            folder: A CLIP checkpoint of transformers' format, such as openai/clip-vit-large-patch14-336.
            tower: The model's vision tower.

        Raises:
            CheckpointError: It is no CLIP, its vision tower is another one, or its tokenizer cannot read.
        """
        self.folder = Path(folder)
        clip: Any = clip_model(self.folder)
        _check_same_tower(self.folder, clip.vision_model, tower)
        self._tokenizer = auto_tokenizer(self.folder)
        ids = _readable(self.folder, self._tokenizer)
        self._text, self._text_projection = clip.text_model, clip.text_projection
        self._norm, self._image_projection = clip.vision_model.post_layernorm, clip.visual_projection
        self.fingerprint = _fingerprint(ids, [self._text, self._text_projection, self._norm, self._image_projection])
        weight = next(tower.parameters())
        clip.to(device=weight.device, dtype=weight.dtype).eval().requires_grad_(False)
        self._longest = int(clip.config.text_config.max_position_embeddings)

    @torch.no_grad()
    def joint(self, patches: Tensor, questions: Sequence[str]) -> ClipJoint:
        """Patches and questions in the joint space.

        Args:
            patches: (B, P, C), of the tower.
            questions: One for each of the B tiles. One longer than CLIP's window is cut into windows.
        """
        found = {question: self._windows(question) for question in dict.fromkeys(questions)}
        texts = [found[question] for question in questions]
        mask = [torch.ones(len(text), dtype=torch.bool, device=text.device) for text in texts]
        image = self._image_projection(self._norm(patches.to(self._image_projection.weight)))
        return ClipJoint(image, pad_sequence(texts, batch_first=True), pad_sequence(mask, batch_first=True))

    def _windows(self, question: str) -> Tensor:
        """(M, E): a text of at most `_longest` tokens each."""
        ids = self._tokenizer(question, return_tensors="pt").input_ids[0]  # with its first and last token
        parts = pad_sequence(list(ids.split(self._longest)), batch_first=True)
        parts = parts.to(self._text_projection.weight.device)
        pooled = self._text(input_ids=parts).pooler_output
        projected: Tensor = self._text_projection(pooled)
        return projected


def _check_same_tower(folder: Path, theirs: nn.Module, tower: nn.Module) -> None:
    """Refuses another vision tower than the model's."""
    ours = dict(getattr(tower, "vision_model", tower).named_parameters())
    for name, weight in theirs.named_parameters():
        mine = ours.get(name)
        if mine is None or mine.shape != weight.shape:
            raise CheckpointError(f"{folder}: its vision tower is not the model's: {name} differs in shape")
        if not torch.allclose(mine.detach().cpu().float(), weight.float(), atol=_TOLERANCE, rtol=_TOLERANCE):
            raise CheckpointError(f"{folder}: its vision tower is not the model's: the values of {name} differ")


def _readable(folder: Path, tokenizer: Any) -> list[int]:
    """The tokens of a sentence; without its files transformers makes a tokenizer that knows no word.

    Raises:
        CheckpointError: All words are unknown to the tokenizer.
    """
    ids: list[int] = tokenizer(_SENTENCE, add_special_tokens=False).input_ids
    if len(set(ids)) < 2:
        raise CheckpointError(
            f"{folder}: its tokenizer knows no word of {_SENTENCE!r}; are tokenizer.json, or vocab.json and "
            "merges.txt, there?"
        )
    return ids


def _fingerprint(ids: Sequence[int], parts: Sequence[nn.Module]) -> str:
    digest = hashlib.sha256(repr(list(ids)).encode())
    for part in parts:
        for weight in part.state_dict().values():
            digest.update(weight.detach().float().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]
