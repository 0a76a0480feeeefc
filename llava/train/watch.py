"""What all processes of a run must agree on after each step: whether to stop, and whether the data are too bad."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object
from torch import Tensor
from transformers import TrainerCallback

from llava.train.interruption import Interrupted, StopSignals

BAD_IMAGES_NAME = "bad_images.txt"
_MAX_SHOWN = 20
_MAX_IDLE_STEPS = 10
_MAX_OVERFLOWS = 20  # of a loss in fp16, whose steps the scaler skips
_LARGEST_WEIGHT = torch.finfo(torch.float16).max  # models are asked in float16, which holds no more


class BadDataError(ValueError):
    """The data cannot be learned from: too many bad images, or nothing in them that is a target."""


class DivergedError(ValueError):
    """The loss is not a number, or the weights are too large to be used."""


def check_weights(state: Mapping[str, Tensor]) -> None:
    """Looks at what was trained before it is written; a run may end before its loss shows what has become of it.

    Args:
        state: Trained tensors by name, on the CPU.

    Raises:
        DivergedError: One has grown beyond what float16 holds, or holds what is no number.
    """
    for name, tensor in state.items():
        if not tensor.is_floating_point() or not tensor.numel():
            continue
        least, most = tensor.aminmax()
        largest = max(abs(float(least)), abs(float(most)))
        if not largest <= _LARGEST_WEIGHT:  # also where it is no number
            raise DivergedError(
                f"the weights have blown up: {name} reaches {largest:.3g}, and float16 holds {_LARGEST_WEIGHT:.5g} at "
                "most; lower --learning_rate. Nothing of this is written, and the checkpoints before it stay"
            )


@dataclass
class StepReport:
    """What one process reports of the step under way.

    Attributes:
        bad_images: Paths of all images so far that could not be used.
        trained: Samples of the step.
        loss_is_finite: Of all its micro-batches; a tensor, so that no step waits for the device.
    """

    bad_images: set[str] = field(default_factory=set)
    trained: int = 0
    loss_is_finite: Tensor | bool = True


class RunWatch(TrainerCallback):
    """Ends a run on all processes at the same step, since one that leaves alone lets the others wait for ever."""

    def __init__(self, accelerator: Any, signals: StopSignals, report: StepReport, max_bad: float) -> None:
        """Keeps what is watched.

        Args:
            accelerator: Of the trainer.
            signals: Of this process.
            report: Of this process; the trainer adds to it.
            max_bad: How many bad images there may be over all processes.
        """
        self.accelerator = accelerator
        self.signals = signals
        self.report = report
        self.max_bad = max_bad
        self._stopped_by = 0
        self._idle_steps = 0
        self._overflows = 0

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        """After each optimizer step; see the class.

        Raises:
            BadDataError: Too many images are bad, or nothing has been learned from for some steps.
            DivergedError: The loss is not a number.
        """
        report = self.report
        own = [self.signals.received, len(report.bad_images), report.trained, int(not report.loss_is_finite)]
        found = self.accelerator.gather(torch.tensor([own], device=self.accelerator.device)).tolist()  # a row a process
        report.trained, report.loss_is_finite = 0, True
        signals, bad_images, trained, overflows = zip(*found, strict=True)
        if sum(bad_images) > self.max_bad:
            self._check_images(args)
        self._check_trained(args, state, sum(trained))
        self._check_loss(args, state, any(overflows))
        self._stopped_by = max(signals)
        if self._stopped_by and state.global_step < state.max_steps:
            control.should_save = True
            if not args.load_best_model_at_end:  # whoever sent the signal does not wait long
                control.should_evaluate = False
        return control

    def _check_trained(self, args: Any, state: Any, trained: int) -> None:
        self._idle_steps = 0 if trained else self._idle_steps + 1
        if self._idle_steps >= min(_MAX_IDLE_STEPS, state.max_steps):
            raise BadDataError(
                f"no sample of the last {self._idle_steps} steps has anything to learn; are the images readable, and "
                f"the answers within --model_max_length {args.model_max_length}, visual tokens included?"
            )

    def _check_loss(self, args: Any, state: Any, is_bad: bool) -> None:
        self._overflows = self._overflows + 1 if is_bad else 0
        if self._overflows > (_MAX_OVERFLOWS if args.fp16 else 0):
            raise DivergedError(
                f"the loss of step {state.global_step} is not a number; lower --learning_rate, or look at the data. "
                "The checkpoints before it stay"
            )

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Leaves, the checkpoint being written.

        Raises:
            Interrupted: A signal asked for it.
        """
        if self._stopped_by and state.global_step < state.max_steps:
            raise Interrupted(self._stopped_by, state.global_step)

    def _check_images(self, args: Any) -> None:
        names = sorted(set(gather_object(sorted(self.report.bad_images))))
        if len(names) <= self.max_bad:
            return  # several processes met the same one
        file = Path(args.output_dir) / BAD_IMAGES_NAME
        if args.should_save:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text("".join(f"{name}\n" for name in names), encoding="utf-8")
        shown = ", ".join(names[:_MAX_SHOWN]) + (", ..." if len(names) > _MAX_SHOWN else "")
        raise BadDataError(
            f"{len(names)} images cannot be used, more than --max_bad_fraction allows ({self.max_bad:g}): {shown}. "
            f"All are listed in {file}; mend or drop them, or raise --max_bad_fraction"
        )
