"""Training from its flags to its result: everything before the first step, the steps, and what is saved."""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from transformers import set_seed
from transformers.integrations import is_deepspeed_zero3_enabled

from llava.command_line import plain_errors
from llava.data.collator import Collator
from llava.data.dataset import LlavaDataset, SampleError
from llava.data.open_records import open_records, select_records
from llava.data.presence import check_images_exist
from llava.data.records import Record
from llava.data.subset import subset_indices, subset_manifest, write_manifest
from llava.data.templates import PromptTemplate, get_template
from llava.encoded.errors import StoreError
from llava.inference import Inference
from llava.model.checkpoints.files import folders_read
from llava.model.sdpa_by_sample import attend_by_sample
from llava.train.arguments import Arguments, TrainingArguments, parse_arguments
from llava.train.cache_features import use_feature_cache
from llava.train.checkpoint import (
    CheckpointWriteError,
    check_processes,
    checkpoint_of_result,
    checkpoint_to_resume,
    steps_done,
)
from llava.train.closing import closing_words
from llava.train.interruption import Interrupted, StopSignals
from llava.train.leaving import leaving_group
from llava.train.run_key import run_key
from llava.train.save import names_of_result, save_result
from llava.train.start import is_llava_checkpoint, start_model
from llava.train.template import with_template
from llava.train.trainer import LlavaTrainer
from llava.train.tuning import make_tuning
from llava.train.watch import BadDataError, DivergedError, RunWatch, check_weights
from llava.train.weights import gather_state, trained_names

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Run:
    """A stage, ready to be trained.

    Attributes:
        subset: Manifest of the part of the data that is trained on; None for all of it.
        checkpoint: Where to go on; None to begin.
    """

    arguments: Arguments
    trainer: LlavaTrainer
    tokenizer: Any
    image_processor: Any
    subset: dict[str, Any] | None
    checkpoint: str | None


def train(argv: Sequence[str] | None = None, attn_implementation: str | None = None) -> LlavaTrainer:
    """Runs the stage that the flags ask for; goes on where an interrupted run of the same `--output_dir` stopped.

    Args:
        argv: Flags; by default this process's.
        attn_implementation: Attention of the language model, unless `--attn_implementation` names one.

    Returns:
        The trainer, with its log history.

    Raises:
        ValueError: The flags, the checkpoint or the data do not fit together; the message names what.
    """
    return execute(prepare(parse_arguments(argv), attn_implementation))


def prepare(arguments: Arguments, attn_implementation: str | None = None) -> Run:
    """Everything before the first step; see `train`."""
    training = arguments.training
    logging.basicConfig(
        level=logging.INFO if training.should_log else logging.WARNING, format="%(levelname)s %(name)s: %(message)s"
    )
    for note in arguments.notes:
        logger.info("%s", note)
    if training.fp16 and training.device.type == "cpu":
        raise ValueError("--fp16 True: the CPU cannot train in fp16; give --fp16 False (to the scripts: FP16=False)")
    _check_folders(arguments)
    arguments = with_template(arguments)
    set_seed(training.seed)
    if is_deepspeed_zero3_enabled():
        _join_processes(training)
    stage = arguments.stage
    records, subset = read_training_data(arguments)  # before the model, so that a mistake shows within seconds
    held_out = read_held_out(arguments)
    tokenizer, model, image_processor = start_model(arguments, stage, attn_implementation)
    if training.packing:
        attend_by_sample(model)
    start = arguments.model
    is_new = not is_llava_checkpoint(start.model_name_or_path) and start.pretrain_mm_mlp_adapter is None
    is_cached = arguments.data.feature_cache is not None
    tuning = make_tuning(training, model, stage, is_new_projector=is_new, from_cache=is_cached)
    key = run_key(arguments, model.config, records)
    checkpoint = checkpoint_to_resume(training.output_dir, training.resume_from_checkpoint, key)
    if checkpoint is not None and _is_finished(checkpoint):
        checkpoint_of_result(checkpoint, wants_best=training.load_best_model_at_end)  # is there
    elif checkpoint is not None:
        check_processes(checkpoint, training.world_size, _zero_stage(training))
    trainer = LlavaTrainer(
        stage=stage,
        key=key,
        tuning=tuning,
        inference=make_inference(arguments, tokenizer, model, image_processor),
        questions=(held_out or [])[: arguments.data.eval_generate],
        model=model,
        args=training,
        train_dataset=make_dataset(
            arguments, records, tokenizer, model, image_processor, None if tuning is None else tuning.most_tokens
        ),
        eval_dataset=held_out and make_dataset(arguments, held_out, tokenizer, model, image_processor),
        data_collator=Collator(pad_token_id=tokenizer.pad_token_id or 0),
    )
    if trainer.is_world_process_zero() and arguments.data.feature_cache is None:  # which looks for itself
        for dataset in filter(None, (trainer.train_dataset, trainer.eval_dataset)):
            check_images_exist(dataset, is_quiet=training.disable_tqdm)
    return Run(arguments, trainer, tokenizer, image_processor, subset, checkpoint)


def _check_folders(arguments: Arguments) -> None:
    """Looks at what the flags name as a folder, before anything large is read.

    Raises:
        ValueError: There is none to read from, a file where one is to be written, or one is read and written.
    """
    data = arguments.data
    images = None if data.image_folder is None else Path(data.image_folder)
    if images is not None and not images.is_dir() and (images.exists() or data.feature_cache is None):
        raise ValueError(f"--image_folder {images} is not a folder")  # a cache does without the images
    written = {"output_dir": arguments.training.output_dir, "feature_cache": data.feature_cache}
    for flag, folder in {**written, "data_cache": data.data_cache}.items():
        if folder is not None and Path(folder).exists() and not Path(folder).is_dir():
            raise ValueError(f"--{flag} {folder} is a file, not a folder")
    model, output = arguments.model, Path(arguments.training.output_dir)
    sources = folders_read(model.model_name_or_path, model.vision_tower)
    if model.pretrain_mm_mlp_adapter is not None:
        adapter = Path(model.pretrain_mm_mlp_adapter)
        sources.append(adapter if adapter.is_dir() else adapter.parent)
    for source in sources:
        if output.resolve() == source.resolve():
            raise ValueError(f"--output_dir {output} is a folder that is read ({source}); the result would replace it")


def _zero_stage(training: TrainingArguments) -> int | None:
    """None without DeepSpeed."""
    plugin = training.deepspeed_plugin
    return None if plugin is None else int(plugin.zero_stage)


def _join_processes(training: TrainingArguments) -> None:
    """Connects the processes before the model is made, which ZeRO-3 splits over them as it is."""
    import deepspeed

    deepspeed.init_distributed(dist_backend="gloo" if training.use_cpu else None)


def execute(run: Run) -> LlavaTrainer:
    """Trains, and saves what the stage made.

    Raises:
        Interrupted: A signal asked the run to stop, and its checkpoint is written.
        BadDataError: More images cannot be used than `--max_bad_fraction` allows, or nothing can be learned from.
        DivergedError: The loss is not a number, or the weights are too large to be used.
        CheckpointWriteError: The disk took no checkpoint.
        StoreError: `--feature_cache` cannot be used.
    """
    trainer, training = run.trainer, run.arguments.training
    trainer.try_checkpoint()
    if training.should_save:
        write_manifest(Path(training.output_dir) / "subset.json", run.subset)
    was_finished = run.checkpoint is not None and _is_finished(run.checkpoint)
    if run.checkpoint is not None and was_finished:
        trainer.restore(run.checkpoint)
    else:
        if run.arguments.data.feature_cache is not None:
            use_feature_cache(trainer, run.arguments.data.feature_cache)
        with StopSignals() as signals:
            max_bad = run.arguments.data.max_bad_fraction * len(trainer.train_dataset)
            trainer.add_callback(RunWatch(trainer.accelerator, signals, trainer.report, max_bad))
            trainer.train(resume_from_checkpoint=run.checkpoint)
        trainer.save_state()
    stage = trainer.stage
    state = gather_state(trainer.model, names_of_result(trainer.model, stage), keep=training.should_save)
    if training.should_save:
        check_weights({name: state[name] for name in trained_names(trainer.model)})
        save_result(training.output_dir, trainer.model, state, stage, run.arguments, run.tokenizer, run.image_processor)
    num_used = len(trainer.train_dataset)
    told = closing_words(
        training.output_dir,
        num_used,
        run.subset["num_samples"] if run.subset else num_used,
        trainer.state.global_step,
        was_finished=was_finished,
        plugins=run.arguments.plugins,
    )
    logger.info("%s", told)
    return trainer


def _is_finished(checkpoint: str) -> bool:
    done, planned = steps_done(checkpoint)
    return done >= planned


def main(choose_attention: Callable[[TrainingArguments], str] | None = None) -> None:
    """The command line: a mistake in flags, checkpoint or data ends in one line. A process of a group ends here.

    Args:
        choose_attention: Names the language model's attention, unless `--attn_implementation` does.
    """
    with leaving_group():
        try:
            _train_in_plain_words(choose_attention)
        except KeyboardInterrupt:
            print(
                "\nstopped at once; the same command goes on from the last whole checkpoint, if there is one",
                file=sys.stderr,
            )
            sys.stderr.flush()
            os._exit(128 + signal.SIGINT)  # nothing is waited for, loading processes above all


def _train_in_plain_words(choose_attention: Callable[[TrainingArguments], str] | None) -> None:
    """Trains as the command line says.

    Raises:
        SystemExit: With a line that says what is wrong, or with the status of the signal that stopped the run.
    """
    with plain_errors():
        arguments = parse_arguments()
        run = prepare(arguments, choose_attention(arguments.training) if choose_attention else None)
    try:
        execute(run)
    except Interrupted as stop:
        logger.warning("%s", stop)
        raise SystemExit(stop.exit_status) from stop
    except (BadDataError, DivergedError, CheckpointWriteError, StoreError) as error:
        raise SystemExit(f"error: {error}") from error
    except SampleError as error:
        # A loading process puts its traceback before the message.
        message = str(error).strip().rpartition(f"{SampleError.__name__}: ")[2]
        raise SystemExit(f"error: {message}") from error


def read_training_data(arguments: Arguments) -> tuple[Sequence[Record], dict[str, Any] | None]:
    """The data that the flags name, or the part of it with its manifest."""
    data, training = arguments.data, arguments.training
    records = open_records(data.data_path, _template(arguments), data.data_cache, data.image_folder)
    if data.data_fraction == 1:
        logger.info("training on %d of %d samples", len(records), len(records))
        return records, None
    seed = training.seed if training.data_seed is None else training.data_seed
    indices = subset_indices(len(records), data.data_fraction, seed)
    logger.info("training on %d of %d samples (seed %d)", len(indices), len(records), seed)
    manifest = subset_manifest(data.data_path, records, indices, data.data_fraction, seed)
    return select_records(records, indices), manifest


def _template(arguments: Arguments) -> PromptTemplate:
    assert arguments.model.version is not None  # `prepare` has filled it in
    return get_template(arguments.model.version)


def read_held_out(arguments: Arguments) -> Sequence[Record] | None:
    """The data that `--eval_data_path` names; None without it."""
    data = arguments.data
    if data.eval_data_path is None:
        return None
    return open_records(data.eval_data_path, _template(arguments), data.data_cache, data.image_folder)


def make_inference(arguments: Arguments, tokenizer: Any, model: Any, image_processor: Any) -> Inference | None:
    """What answers the `--eval_generate` questions of each evaluation; None if none are asked.

    Raises:
        ValueError: ZeRO-3 leaves no process a whole model to ask.
    """
    if not arguments.data.eval_generate:
        return None
    if is_deepspeed_zero3_enabled():
        raise ValueError("--eval_generate does not go with ZeRO-3; drop it (the loss is still measured) or use ZeRO-2")
    return Inference(tokenizer, model, image_processor, conv_mode=arguments.model.version)


def make_dataset(
    arguments: Arguments,
    records: Sequence[Record],
    tokenizer: Any,
    model: Any,
    image_processor: Any,
    count_visual_tokens: Callable[..., list[int]] | None = None,
) -> LlavaDataset:
    """The records as this model takes them, cut as `count_visual_tokens` says; by default under its compression."""
    return LlavaDataset(
        records,
        tokenizer=tokenizer,
        template=_template(arguments),
        image_processor=image_processor,
        image_config=model.config,
        image_folder=arguments.data.image_folder,
        count_visual_tokens=count_visual_tokens or partial(model.num_visual_tokens, of_one_prompt=True),
        max_length=arguments.training.model_max_length,
    )
