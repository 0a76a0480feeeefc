"""The names of all flags of training, for commands that must not wait for transformers to be imported."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields
from difflib import get_close_matches

from llava.train.flags import DataArguments, ModelArguments, TrainingFlags
from llava.train.recipe import Setting

# Flags that other commands call otherwise, and those that transformers 5 renamed (None: dropped). Their values kept
# their meaning: a ratio is a number of steps below 1.
RENAMED: dict[str, str | None] = {
    "--conv_mode": "--version",
    "--model_path": "--model_name_or_path",
    "--evaluation_strategy": "--eval_strategy",
    "--warmup_ratio": "--warmup_steps",
    "--no_cuda": "--use_cpu",
    "--logging_dir": None,
    "--overwrite_output_dir": None,
    "--save_safetensors": None,
    "--fp16_backend": None,
    "--half_precision_backend": None,
}
# The fields of transformers' TrainingArguments; a newer version is asked for those that it has besides.
WRITTEN_FOR = (5, 23)
_NAMES = """
    accelerator_config activation_checkpointing activation_checkpointing_kwargs adam_beta1 adam_beta2 adam_epsilon
    auto_find_batch_size average_tokens_across_devices batch_eval_metrics bf16 bf16_full_eval data_seed
    dataloader_drop_last dataloader_in_order dataloader_multiprocessing_context dataloader_num_workers
    dataloader_persistent_workers dataloader_pin_memory dataloader_prefetch_factor ddp_backend ddp_broadcast_buffers
    ddp_bucket_cap_mb ddp_find_unused_parameters ddp_static_graph ddp_timeout debug deepspeed disable_tqdm do_eval
    do_predict do_train enable_jit_checkpoint eval_accumulation_steps eval_delay eval_do_concat_batches
    eval_on_start eval_steps eval_strategy eval_use_gather_object fp16 fp16_full_eval fsdp fsdp_config
    full_determinism gradient_accumulation_steps gradient_checkpointing gradient_checkpointing_kwargs
    greater_is_better hub_always_push hub_model_id hub_private_repo hub_revision hub_strategy hub_token
    ignore_data_skip include_for_metrics include_num_input_tokens_seen label_names label_smoothing_factor
    learning_rate length_column_name liger_kernel_config load_best_model_at_end local_rank log_level
    log_level_replica log_on_each_node logging_first_step logging_nan_inf_filter logging_steps logging_strategy
    lr_scheduler_kwargs lr_scheduler_type max_grad_norm max_steps metric_for_best_model neftune_noise_alpha
    num_train_epochs optim optim_args optim_target_modules output_dir parallelism_config per_device_eval_batch_size
    per_device_train_batch_size prediction_loss_only project push_to_hub remove_unused_columns report_to
    restore_callback_states_from_checkpoint resume_from_checkpoint run_name save_on_each_node save_only_model
    save_steps save_strategy save_total_limit seed skip_memory_metrics tf32 torch_compile torch_compile_backend
    torch_compile_mode torch_empty_cache_steps trackio_bucket_id trackio_space_id trackio_static_space_id
    train_sampling_strategy use_cache use_cpu use_liger_kernel warmup_steps weight_decay
"""
OF_TRANSFORMERS = frozenset(_NAMES.split())
_OURS = (entry.name for kind in (ModelArguments, DataArguments, TrainingFlags) for entry in fields(kind))
_OTHERS = ("recipe", "plugin", "help", "help_all")
KNOWN = frozenset({*_OURS, *OF_TRANSFORMERS, *(name.removeprefix("--") for name in RENAMED), *_OTHERS})
_IN_RECIPES = KNOWN - {"recipe", "help", "help_all"}


def plain_name(word: str) -> str:
    """A flag's name without dashes, value, and the `no_` of a truth value's opposite."""
    name = word.removeprefix("--").partition("=")[0].replace("-", "_")
    opposite = name.removeprefix("no_")
    return opposite if name not in KNOWN and opposite in KNOWN else name


def unknown_key(setting: Setting, known: Iterable[str] = _IN_RECIPES) -> str | None:
    """What to say of a recipe's key that is no flag; None if it is one."""
    known = frozenset(known)
    name = setting.key.replace("-", "_")
    return None if name in known else f"{setting.where}: {setting.key} is no flag of train.py{_hint(name, known)}"


def unknown_flag(word: str) -> str | None:
    """What to say of a word of the command line that looks like a flag and is none; None if it is one."""
    name = plain_name(word)
    return None if name in KNOWN else f"--{name} is no flag of training{_hint(name, KNOWN, '--')}; --help lists them"


def _hint(name: str, known: Iterable[str], dashes: str = "") -> str:
    close = get_close_matches(name, known, n=1)
    return f"; did you mean {dashes}{close[0]}?" if close else ""
