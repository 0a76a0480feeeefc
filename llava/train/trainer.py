"""transformers' Trainer, with LLaVA's sampler and the figures that a LLaVA run is judged by."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor
from torch.utils.data import Sampler
from transformers import Trainer

from llava.data.sampler import LengthGroupedSampler
from llava.train.checkpoint import share_weights
from llava.train.run_key import KEY_NAME, write_key
from llava.train.stages import Stage, parameters_of

logger = logging.getLogger(__name__)

_TRAINED_NAME = "trained.safetensors"


class LlavaTrainer(Trainer):
    """Trains one stage.

    The loss is the mean over all target tokens of an optimizer step, whatever the number of processes and of
    accumulation steps. (LLaVA averages the means of its micro-batches.)
    """

    args: Any

    def __init__(self, *, stage: Stage, key: Mapping[str, Any], **kwargs: Any) -> None:
        """Takes what transformers' Trainer takes.

        Args:
            stage: What is trained; checkpoints of a projector stage hold the projector only.
            key: Of the run, from `run_key`; written into each checkpoint.
            **kwargs: For `Trainer`.
        """
        super().__init__(**kwargs)
        self.stage = stage
        self.key = key
        self.skipped: Counter[str] = Counter()
        self._reported: set[str] = set()
        self._seen: Counter[str] = Counter()
        self._seen_since: float | None = None

    # ---- order of the samples ----

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler | None:
        arguments = self.args
        if not (arguments.group_by_modality_length or arguments.group_by_length):
            return super()._get_train_sampler(train_dataset)
        dataset = self.train_dataset if train_dataset is None else train_dataset
        return LengthGroupedSampler(
            dataset.modality_lengths,
            arguments.train_batch_size,
            arguments.world_size * arguments.gradient_accumulation_steps,
            by_modality=arguments.group_by_modality_length,
            seed=arguments.seed if arguments.data_seed is None else arguments.data_seed,
        )

    # ---- a step ----

    def training_step(self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None) -> Tensor:
        """A micro-batch; what was left out of it is reported and counted."""
        self._seen_since = self._seen_since or time.perf_counter()
        for reason, name in inputs.pop("skipped", ()):
            self.skipped[reason] += 1
            if name not in self._reported:
                self._reported.add(name)
                logger.warning("%s, skipped: %s", reason, name)
        self._seen["samples"] += int((inputs["labels"] >= 0).any(dim=1).sum())
        self._seen["visual tokens"] += sum(self.model.num_visual_tokens(inputs.get("image_sizes", [])))
        return super().training_step(model, inputs, num_items_in_batch)

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The loss, with a zero gradient for what a batch did not use.

        A batch without images reaches no projector, one without rows of tiles no newline; other processes would wait
        for their gradients for ever.
        """
        if num_items_in_batch is not None:  # a step without any target must give zero, not 0 / 0
            num_items_in_batch = torch.clamp(torch.as_tensor(num_items_in_batch), min=1)
        loss, outputs = super().compute_loss(model, inputs, True, num_items_in_batch)
        if model.training:
            unused = [] if "images" in inputs else parameters_of(self.model, "mm_projector")
            unused += [p for name, p in self.model.named_parameters() if name.endswith("image_newline")]
            zeros = (parameter.sum() * 0 for parameter in unused if parameter.requires_grad)
            loss = loss + sum(zeros, loss.new_zeros(()))
        return (loss, outputs) if return_outputs else loss

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """As transformers', with `--mm_projector_lr` for the projector."""
        optimizer = super().create_optimizer(model)
        rate = self.args.mm_projector_lr
        if rate is None:
            return optimizer
        projector = {id(parameter) for parameter in parameters_of(self.model, "mm_projector")}
        for group in list(optimizer.param_groups):
            own = [p for p in group["params"] if id(p) in projector]
            group["params"] = [p for p in group["params"] if id(p) not in projector]
            optimizer.add_param_group({**group, "params": own, "lr": rate})
        optimizer.param_groups[:] = [group for group in optimizer.param_groups if group["params"]]
        return optimizer

    # ---- figures ----

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds samples a second, visual tokens a sample and what was skipped, over all processes."""
        if "loss" in logs:
            logs |= self._figures()
        super().log(logs, start_time)

    def _figures(self) -> dict[str, float]:
        now = time.perf_counter()
        names = ("samples", "visual tokens")
        local = [float(self._seen[name]) for name in names] + [float(sum(self.skipped.values()))]
        totals = self.accelerator.reduce(torch.tensor(local, device=self.args.device), reduction="sum").tolist()
        seconds, self._seen_since = now - (self._seen_since or now), now
        self._seen.clear()
        samples, visual_tokens, skipped = totals
        return {
            "samples_per_second": round(samples / max(seconds, 1e-9), 3),
            "visual_tokens_per_sample": round(visual_tokens / max(samples, 1), 2),
            "skipped_samples": skipped,
        }

    # ---- checkpoints ----

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Tensor] | None = None) -> None:
        """Writes what is trained; the frozen parts are where the run started from."""
        if not self.args.should_save:
            return
        folder = Path(output_dir or self.args.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        state = self.model.state_dict() if state_dict is None else state_dict
        trained = {name for name, parameter in self.model.named_parameters() if parameter.requires_grad}
        kept = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in state.items() if name in trained}
        safetensors.torch.save_file(kept, folder / _TRAINED_NAME, metadata={"format": "pt"})
        write_key(folder, self.key)
        share_weights(folder, like=KEY_NAME)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        """Reads what `_save` wrote."""
        state = safetensors.torch.load_file(Path(resume_from_checkpoint) / _TRAINED_NAME)
        target = self.model if model is None else model
        trained = {name for name, parameter in target.named_parameters() if parameter.requires_grad}
        if set(state) != trained:
            differing = ", ".join(sorted(set(state) ^ trained)[:5])
            raise ValueError(f"{resume_from_checkpoint} is of another model or stage; they differ in {differing}")
        target.load_state_dict(state, strict=False)
