"""transformers' Trainer with checkpoints of what is trained, whole or not taken, under DeepSpeed too."""

from __future__ import annotations

import contextlib
import logging
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor
from transformers import Trainer, TrainerState

from llava.train.checkpoint import CheckpointWriteError, check_space, checkpoint_of_result, seal, steps_done, unseal
from llava.train.interruption import OutlivesSignals
from llava.train.run_key import KEY_NAME, write_key
from llava.train.save import share_weights
from llava.train.watch import check_weights
from llava.train.weights import gather_state, load_state, trained_names

logger = logging.getLogger(__name__)

TRAINED_NAME = "trained.safetensors"
_TRIAL_NAME = ".write-trial"
_ADAM_BYTES = 12  # a parameter's fp32 copy and two moments, the most that an optimizer of ours keeps


class ResumableTrainer(Trainer):
    """A Trainer that writes what it trains and nothing that is frozen."""

    args: Any

    def __init__(self, *, key: Mapping[str, Any], **kwargs: Any) -> None:
        """Takes what transformers' Trainer takes.

        Args:
            key: Of the run, from `run_key`; written into each checkpoint.
            **kwargs: For `Trainer`.
        """
        with _told_where(Path(kwargs["args"].output_dir)):
            super().__init__(**kwargs)  # makes the folder
        self.key = key
        self.steps_before = 0

    def train(self, resume_from_checkpoint: str | None = None, **kwargs: Any) -> Any:
        """As transformers' Trainer; `steps_before` then says how many steps the checkpoint has behind it."""
        self.steps_before = 0 if resume_from_checkpoint is None else steps_done(resume_from_checkpoint)[0]
        return super().train(resume_from_checkpoint=resume_from_checkpoint, **kwargs)

    def get_train_dataloader(self) -> Any:
        """As transformers', with workers that a signal to the whole process group does not end."""
        loader = super().get_train_dataloader()
        inner = getattr(loader, "base_dataloader", loader)  # accelerate wraps it
        inner.worker_init_fn = OutlivesSignals(inner.worker_init_fn)
        return loader

    # ---- writing ----

    def try_checkpoint(self) -> None:
        """Writes the weights of a checkpoint and removes them, so that a run cannot fail at its first checkpoint.

        Raises:
            CheckpointWriteError: The folder cannot be written, or a checkpoint and the result do not fit.
        """
        folder = Path(self.args.output_dir)
        sizes = [getattr(p, "ds_numel", p.numel()) for p in self.model.parameters() if p.requires_grad]
        with _told_where(folder):
            if self.args.should_save:
                folder.mkdir(parents=True, exist_ok=True)
                check_space(folder, sum(sizes) * (_ADAM_BYTES + 2 * 4))
            self.save_model(str(folder / _TRIAL_NAME), _internal_call=True)
            if self.args.should_save:
                shutil.rmtree(folder / _TRIAL_NAME)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Writes what is trained. Every process must call it: under ZeRO-3 all hold a part."""
        names = trained_names(self.model)
        self._save(output_dir, gather_state(self.model, names, keep=self.args.should_save))

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Tensor] | None = None) -> None:
        if not self.args.should_save:
            return
        folder = Path(output_dir or self.args.output_dir)
        kept = gather_state(self.model, trained_names(self.model), keep=True) if state_dict is None else state_dict
        check_weights(kept)
        folder.mkdir(parents=True, exist_ok=True)
        safetensors.torch.save_file(kept, folder / TRAINED_NAME, metadata={"format": "pt"})
        write_key(folder, self.key)
        share_weights(folder, like=KEY_NAME)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        folder = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
        with _told_where(folder):
            if self.args.should_save:
                unseal(folder)
            self.accelerator.wait_for_everyone()
            super()._save_checkpoint(model, trial)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if not self.is_deepspeed_enabled:
            super()._save_optimizer_and_scheduler(output_dir)
            return
        self.model_wrapped.save_checkpoint(output_dir, exclude_frozen_parameters=True)
        if self.args.should_save:
            torch.save(self.lr_scheduler.state_dict(), Path(output_dir) / "scheduler.pt")

    def _save_rng_state(self, output_dir: str) -> None:
        """The last that every process writes; what follows is the mark of a whole checkpoint."""
        super()._save_rng_state(output_dir)
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            seal(Path(output_dir))

    # ---- reading ----

    def restore(self, checkpoint: str) -> None:
        """Reads the result of a finished run: its last checkpoint, or its best one if that was asked for."""
        self.state = TrainerState.load_from_json(str(Path(checkpoint) / "trainer_state.json"))
        self._load_from_checkpoint(checkpoint_of_result(checkpoint, wants_best=self.args.load_best_model_at_end))

    def _load_from_checkpoint(self, resume_from_checkpoint: str | Path, model: Any = None) -> None:
        """Reads what `_save` wrote."""
        state = safetensors.torch.load_file(Path(resume_from_checkpoint) / TRAINED_NAME)
        trained = trained_names(self.model)
        if set(state) != trained:
            differing = ", ".join(sorted(set(state) ^ trained)[:5])
            raise ValueError(f"{resume_from_checkpoint} is of another model or stage; they differ in {differing}")
        load_state(self.model, state)

    def _prepare_for_training(self, max_steps: int, train_dataloader: Any, resume_from_checkpoint: str | None) -> Any:
        """As transformers', but DeepSpeed's checkpoints lack what is frozen, so they are not read strictly."""
        if not self.is_deepspeed_enabled:
            return super()._prepare_for_training(max_steps, train_dataloader, resume_from_checkpoint)
        prepared = super()._prepare_for_training(max_steps, train_dataloader, None)
        if resume_from_checkpoint is not None:
            self._load_deepspeed(resume_from_checkpoint)
            self._load_optimizer_and_scheduler(resume_from_checkpoint)
        return prepared

    def _load_deepspeed(self, checkpoint: str) -> None:
        path, _ = self.model_wrapped.load_checkpoint(checkpoint, load_module_strict=False)
        if path is None:
            raise ValueError(f"{checkpoint} has no DeepSpeed state; was it written by a run without --deepspeed?")

    def _load_best_model(self) -> None:
        best = self.state.best_model_checkpoint
        logger.info("the result is that of %s (%s)", best, self.state.best_metric)
        if self.is_deepspeed_enabled:
            self._load_deepspeed(best)
        else:
            self._load_from_checkpoint(best)


@contextlib.contextmanager
def _told_where(folder: Path) -> Iterator[None]:
    try:
        yield
    except CheckpointWriteError:
        raise
    except (OSError, SafetensorError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "write" not in str(error):  # torch.save has no class of its own for it
            raise
        raise CheckpointWriteError(
            f"{folder} could not be written: {error}. Free space there or choose another --output_dir; "
            "a run that has whole checkpoints goes on from the last one"
        ) from error
