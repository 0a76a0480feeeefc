"""Broken weights are told by the first logits of a batch, which are looked at where its ids are fetched anyway."""

from __future__ import annotations

from functools import cached_property
from types import TracebackType
from typing import Any

import torch
from torch import Tensor

NOT_FINITE = "the model's logits are not finite numbers"


class NotFiniteError(ValueError):
    """A model's logits are NaN or infinite: it answers nothing, whatever ids come out of it."""

    def __init__(self, model: str, dtype: torch.dtype) -> None:
        """Names the model and what to do.

        Args:
            model: What the model is called.
            dtype: Of its weights.
        """
        super().__init__(
            f"{model}: {NOT_FINITE} (NaN or infinity, in {dtype}), so it answers nothing; its weights are damaged, "
            "or the data type is too narrow for them: try --dtype bfloat16 or float32, or get the files again"
        )


class FirstLogits:
    """Keeps what a model says of the first new token, as it is before any processor; a context around `generate`.

    Only the verdict is kept, on the device: what follows may write over the head's output, as assisted decoding and
    compiled graphs do. Nothing is computed in later steps, and nothing is fetched before it is asked for.
    """

    def __init__(self, model: Any) -> None:
        """Takes the model that is about to generate."""
        self._head = model.get_output_embeddings()
        self._finite: Tensor | None = None  # (rows,), bool

    def __enter__(self) -> FirstLogits:
        """Waits for the head's next output."""
        self._handle = self._head.register_forward_hook(self._keep)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leaves the head as it was."""
        self._handle.remove()

    def _keep(self, module: Any, inputs: Any, output: Tensor) -> None:
        self._handle.remove()  # decoding, which may be compiled, runs without a hook
        self._finite = torch.isfinite(output[:, -1]).all(dim=-1)

    @cached_property
    def is_finite(self) -> bool:
        """The verdict on all prompts, which costs a copy from the device; for text that is handed on as it comes."""
        return self._finite is None or bool(self._finite.all())

    def are_finite(self) -> list[bool]:
        """The verdict on each row of the head's output."""
        return [] if self._finite is None else self._finite.tolist()  # type: ignore[no-any-return]

    def beside(self, ids: Tensor, beams: int = 1) -> Tensor:
        """The ids and the verdict in one tensor, so that one copy from the device fetches both.

        Args:
            ids: (B, T), what `generate` gave; of the first B prompts.
            beams: Rows of the head's output a prompt.

        Returns:
            (B, T + 1), the last column 1 where the prompt's first logits are all finite, else 0.
        """
        if self._finite is None:
            raise RuntimeError("generate has not run inside this context")
        is_finite = self._finite[: len(ids) * beams : beams]  # the beams begin alike
        return torch.cat([ids, is_finite.to(ids.device, ids.dtype).unsqueeze(1)], dim=1)
