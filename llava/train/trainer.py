"""transformers' Trainer, with LLaVA's sampler and the figures that a LLaVA run is judged by."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils.data import Sampler
from transformers.integrations import is_deepspeed_zero3_enabled

from llava.constants import IGNORE_INDEX
from llava.data.cached_dataset import CachedDataset
from llava.data.dataset import NO_TARGETS
from llava.data.sampler import LengthGroupedSampler
from llava.model.target_loss import Teaching
from llava.train.blank_image import add_blank_image
from llava.train.budgets import compressed_to
from llava.train.distillation import PartsOfLoss
from llava.train.resumable import ResumableTrainer
from llava.train.save import describe_checkpoint
from llava.train.stages import Stage, parameters_of
from llava.train.throughput import Throughput, peak_of
from llava.train.tuning import Tuning
from llava.train.validation import answer_accuracy, validation_loss
from llava.train.watch import StepReport

if TYPE_CHECKING:
    from llava.inference import Inference

logger = logging.getLogger(__name__)


class LlavaTrainer(ResumableTrainer):
    """Trains one stage.

    The loss is the mean over all target tokens of an optimizer step, whatever the number of processes and of
    accumulation steps. (LLaVA averages the means of its micro-batches.)
    """

    args: Any
    control: Any

    def __init__(
        self,
        *,
        stage: Stage,
        tuning: Tuning | None = None,
        inference: Inference | None = None,
        questions: Sequence[dict[str, Any]] = (),
        **kwargs: Any,
    ) -> None:
        """Takes what `ResumableTrainer` takes.

        Args:
            stage: What is trained; checkpoints of a projector stage hold the projector only.
            tuning: Budgets of the steps, and a teacher; None without.
            inference: Around the model, to answer `questions` at each evaluation.
            questions: Entries of `eval_dataset`.
            **kwargs: For `ResumableTrainer`.
        """
        super().__init__(**kwargs)
        self.stage = stage
        self.plan = None if tuning is None else tuning.plan
        self.teacher = None if tuning is None else tuning.teacher
        self._parts_of_loss = PartsOfLoss()
        self.inference = inference
        self.questions = questions
        self.report = StepReport()
        self.skipped: Counter[str] = Counter()
        self._reported: set[str] = set()
        arguments = self.args
        peak = arguments.peak_tflops or (peak_of(arguments.device) if arguments.bf16 or arguments.fp16 else None)
        self.throughput = Throughput(self.model, arguments.device, peak)

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
        for reason, name in inputs.pop("skipped", ()):
            self.skipped[reason] += 1
            if reason != NO_TARGETS:  # all others speak of an image
                self.report.bad_images.add(name)
            if name not in self._reported:
                self._reported.add(name)
                logger.warning("%s, skipped: %s", reason, name)
        self.report.trained += int((inputs["labels"] != IGNORE_INDEX).any(dim=1).sum())
        with self._budget_of_step():
            self.throughput.count(inputs)
            loss = super().training_step(model, inputs, num_items_in_batch)
        self.report.loss_is_finite = loss.isfinite() & self.report.loss_is_finite
        return loss

    def _budget_of_step(self) -> AbstractContextManager[None]:
        """The model under the budget of the optimizer step under way; outside of steps it has the final one."""
        if self.plan is None:
            return nullcontext()
        return compressed_to(self.model, self.plan.at(self.state.global_step, self.state.max_steps).budget)

    def get_batch_samples(self, epoch_iterator: Any, *args: Any, **kwargs: Any) -> Any:
        """As transformers', with the wait for data on the clock."""
        return super().get_batch_samples(self.throughput.waiting(epoch_iterator), *args, **kwargs)

    def _prepare_inputs(self, inputs: dict[str, Any]) -> dict[str, Any]:
        if self.is_deepspeed_enabled and not inputs.keys() & {"images", "vision_tokens"}:
            data = self.train_dataset if self.model.training else self.eval_dataset
            runs_tower = is_deepspeed_zero3_enabled() and not isinstance(data, CachedDataset)
            inputs = add_blank_image(inputs, self.model, as_tokens=not runs_tower)
        prepared: dict[str, Any] = super()._prepare_inputs(inputs)
        return prepared

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The loss from logits at targets only, with a zero gradient for what a batch did not use.

        A batch without images reaches no projector, one without rows of tiles no newline; other processes would wait
        for their gradients for ever.
        """
        if num_items_in_batch is not None:  # a step without any target must give zero, not 0 / 0
            num_items_in_batch = torch.clamp(torch.as_tensor(num_items_in_batch), min=1)
        inputs = {**inputs, **self._loss_options}
        if self.teacher is not None:
            inputs["teaching"] = self._teach(model, inputs)
        loss, outputs = super().compute_loss(model, inputs, True, num_items_in_batch)
        if self.teacher is not None:
            self._parts_of_loss.add(outputs, self.state.global_step)
        if model.training:
            unused = [] if inputs.keys() & {"images", "vision_tokens"} else parameters_of(self.model, "mm_projector")
            unused += [p for name, p in self.model.named_parameters() if name.endswith("image_newline")]
            zeros = (parameter.sum() * 0 for parameter in unused if parameter.requires_grad)
            loss = loss + sum(zeros, loss.new_zeros(()))
        return (loss, outputs) if return_outputs else loss

    def _teach(self, model: Any, inputs: dict[str, Any]) -> Teaching:
        assert self.teacher is not None
        with self.teacher.at_work(self.model):
            self.throughput.count_forward(inputs)
            return self.teacher.teach(model, inputs)

    @property
    def _loss_options(self) -> dict[str, bool]:
        return {"loss_only": True, "packing": self.args.packing}

    # ---- evaluation ----

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """The loss on `--eval_data_path`, and with `--eval_generate` how many of its questions are answered right.

        Every process must call it.
        """
        arguments = self.args
        dataset = self.eval_dataset if eval_dataset is None else eval_dataset
        size = arguments.per_device_eval_batch_size
        start = time.perf_counter()
        self.model.eval()
        found = validation_loss(dataset, self.data_collator, self._loss_sum, self.accelerator, size)
        if self.inference is not None:
            with self.accelerator.autocast():
                found |= answer_accuracy(self.inference, self.questions, dataset, self.accelerator, size)
        seconds = time.perf_counter() - start
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in (found | {"seconds": seconds}).items()}
        self.log(dict(metrics))
        self.control = self.callback_handler.on_evaluate(arguments, self.state, self.control, metrics)
        return metrics

    @torch.no_grad()
    def _loss_sum(self, batch: dict[str, Any]) -> Tensor:
        inputs = self._prepare_inputs(batch)
        loss: Tensor = self.model_wrapped(**inputs, **self._loss_options, num_items_in_batch=torch.tensor(1)).loss
        return loss

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

    # ---- checkpoints ----

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Tensor] | None = None) -> None:
        """As a run goes on from them, and ready for `load_pretrained_model`."""
        super()._save(output_dir, state_dict)
        if self.args.should_save:
            folder = Path(output_dir or self.args.output_dir)
            describe_checkpoint(folder, self.model, self.stage, self.key["--model_name_or_path"])

    # ---- figures ----

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds how fast the run is, over all processes, and how many samples were skipped."""
        if "loss" in logs:
            logs |= self.throughput.figures(self.accelerator)
            if self.plan is not None:
                logs["visual_tokens_per_tile"] = self.plan.at(self.state.global_step - 1, self.state.max_steps).tokens
            if self.teacher is not None:
                logs |= self._parts_of_loss.figures(self.accelerator)
            skipped = torch.tensor(float(sum(self.skipped.values())), device=self.args.device)
            logs["skipped_samples"] = self._skipped_before() + self.accelerator.reduce(skipped, reduction="sum").item()
        super().log(logs, start_time)

    def _skipped_before(self) -> float:
        """What was skipped before this run was interrupted, as it was last logged."""
        earlier = [entry for entry in self.state.log_history if entry["step"] <= self.steps_before]
        return float(next((e["skipped_samples"] for e in reversed(earlier) if "skipped_samples" in e), 0))
