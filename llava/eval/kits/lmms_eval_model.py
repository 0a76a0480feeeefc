"""`lmms-eval --model llava_visionzip`. The only module that needs lmms-eval, which alone imports it."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import torch
from accelerate import Accelerator, InitProcessGroupKwargs
from lmms_eval.api.instance import GenerationResult, Instance, TokenCounts
from lmms_eval.api.model import lmms
from tqdm import tqdm

from llava.eval.kits.model_args import load_inference, read_batch_size
from llava.eval.kits.requests import RequestAnswerer
from llava.model.own_device import own_device

_LONGEST_WAIT = timedelta(days=7)  # a process may be done long before another


class LlavaVisionZip(lmms):
    """A LLaVA of this package, with the compression that `--model_args compression=...` names."""

    is_simple = True

    def __init__(
        self, pretrained: str, batch_size: int | str = 1, device: str | None = None, **model_args: Any
    ) -> None:
        """Loads the model.

        Args:
            pretrained: A checkpoint, as for `load_pretrained_model`.
            batch_size: Questions a batch, or `auto`.
            device: Where the model is to be; by default this process's GPU, else the CPU.
            **model_args: See `load_inference`.

        Raises:
            ValueError: An argument is unknown, or its value.
        """
        super().__init__()
        size = read_batch_size(batch_size)
        wait = InitProcessGroupKwargs(timeout=_LONGEST_WAIT)
        self.accelerator = Accelerator(cpu=device == "cpu", kwargs_handlers=[wait])
        self._rank = self.accelerator.process_index
        self._world_size = self.accelerator.num_processes
        inference = load_inference(pretrained, device=own_device(device), **model_args)
        self.device = torch.device(inference.model.device)
        self.answerer: RequestAnswerer | None = RequestAnswerer(inference, size)

    @property
    def batch_size(self) -> int | None:
        """Questions a batch; None is what the memory takes."""
        return self._ready.batch_size

    def generate_until(self, requests: list[Instance]) -> list[GenerationResult]:
        """Answers, with the number of tokens that went in and came out."""
        with self._progress(requests) as bar:
            answers = self._ready.generate([request.args for request in requests], self.task_dict, bar.update)
        return [
            GenerationResult(
                answer.text, TokenCounts(input_tokens=answer.prompt_tokens, output_tokens=len(answer.token_ids))
            )
            for answer in answers
        ]

    def loglikelihood(self, requests: list[Instance]) -> list[GenerationResult]:
        """The loss of each answer, and whether it is what the model would say.

        The loss and not the log-probability, because lmms-eval's multiple choice takes the smallest value. Inside a
        `GenerationResult`, because of a bare pair lmms-eval 0.7.3 makes a text, which its metrics cannot read.
        """
        with self._progress(requests) as bar:
            found = self._ready.likelihoods([request.args for request in requests], self.task_dict, bar.update)
        return [GenerationResult((likelihood.loss, likelihood.is_greedy)) for likelihood in found]

    def generate_until_multi_round(self, requests: list[Instance]) -> list[str]:
        """Not offered.

        Raises:
            NotImplementedError: Always.
        """
        raise NotImplementedError("llava_visionzip answers single questions; tasks of several rounds are not supported")

    def clean(self) -> None:
        """Lets go of the model, whose memory a local judge may need."""
        self.answerer = None
        super().clean()

    @property
    def _ready(self) -> RequestAnswerer:
        if self.answerer is None:
            raise RuntimeError("the model is gone: lmms-eval has called clean()")
        return self.answerer

    def _progress(self, requests: list[Instance]) -> Any:
        return tqdm(total=len(requests), disable=self.rank != 0, desc="Model Responding")
