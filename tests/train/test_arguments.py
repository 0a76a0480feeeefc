from types import SimpleNamespace

import pytest
import torch

from llava.train.arguments import accumulation_steps, parse_arguments, translate_flags
from llava.train.stages import STAGES, stage_of
from llava.train.train_mem import default_attention

# What LLaVA's published launch scripts pass (scripts/v1_5/pretrain.sh and finetune.sh), but for wandb and DeepSpeed.
COMMON = """--mm_projector_type mlp2x_gelu --mm_vision_select_layer -2 --mm_use_im_start_end False
    --mm_use_im_patch_token False --bf16 True --num_train_epochs 1 --per_device_eval_batch_size 4
    --gradient_accumulation_steps 1 --evaluation_strategy no --save_strategy steps --save_total_limit 1
    --weight_decay 0. --warmup_ratio 0.03 --lr_scheduler_type cosine --logging_steps 1 --tf32 True
    --model_max_length 2048 --gradient_checkpointing True --dataloader_num_workers 4 --lazy_preprocess True
    --model_name_or_path lmsys/vicuna-13b-v1.5 --vision_tower openai/clip-vit-large-patch14-336
    --data_path ./data.json --image_folder ./images --report_to none --use_cpu True"""
PRETRAIN = "--version plain --tune_mm_mlp_adapter True --per_device_train_batch_size 32 --learning_rate 1e-3"
FINETUNE = """--version v1 --pretrain_mm_mlp_adapter ./p/mm_projector.bin --image_aspect_ratio pad
    --group_by_modality_length True --per_device_train_batch_size 16 --learning_rate 2e-5"""


def _parse(text, tmp_path):
    return parse_arguments([*text.split(), "--output_dir", str(tmp_path)])


@pytest.mark.parametrize(("script", "stage"), [(PRETRAIN, "align"), (FINETUNE, "finetune")])
def test_llavas_scripts_are_understood(script, stage, tmp_path):
    arguments = _parse(f"{script} {COMMON}", tmp_path)
    assert arguments.stage == STAGES[stage]
    training = arguments.training
    assert training.eval_strategy == "no"
    assert training.get_warmup_steps(1000) == 30
    assert training.bf16 and training.gradient_checkpointing
    assert training.group_by_modality_length == (stage == "finetune")


def test_renamed_flags_are_translated_in_every_spelling():
    words = ["--warmup_ratio=0.1", "--evaluation-strategy", "no", "--logging_dir", "logs", "--lr", "-1"]
    assert translate_flags(words) == ["--warmup_steps=0.1", "--eval_strategy", "no", "--lr", "-1"]


def test_unknown_flags_are_refused(tmp_path, capsys):
    with pytest.raises((SystemExit, ValueError)):
        _parse(f"{PRETRAIN} {COMMON} --lerning_rate 1", tmp_path)


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ("--bits 4", "--bits 4/8 are not supported yet"),
        ("--lora_enable True", "--lora_enable"),
        ("--mm_use_im_start_end True", "--mm_use_im_start_end True is not supported"),
        ("--global_batch_size 100", "--global_batch_size 100 is not a multiple of 32"),
    ],
)
def test_what_cannot_be_done_is_said(extra, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        _parse(f"{PRETRAIN} {COMMON} {extra}", tmp_path)


def test_the_global_batch_is_accumulated(monkeypatch, tmp_path):
    assert accumulation_steps(128, 16, 8) == 1
    assert accumulation_steps(128, 16, 1) == 8
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match=r"128 is not a multiple of 96 .* 48 on 2 process"):
        accumulation_steps(128, 48, 2)


def test_stages_follow_llavas_flags():
    off = {"tune_mm_mlp_adapter": False, "freeze_mm_mlp_adapter": False, "freeze_backbone": False}
    assert stage_of(None, **off) == STAGES["finetune"]
    assert stage_of(None, **{**off, "tune_mm_mlp_adapter": True}) == STAGES["align"]
    assert stage_of("finetune", **{**off, "freeze_mm_mlp_adapter": True}).trained == {"language_model"}
    assert stage_of("finetune", **{**off, "freeze_backbone": True}).saves_projector_only
    with pytest.raises(ValueError, match="--stage 'tune' is unknown; known: align, projector, finetune"):
        stage_of("tune", **off)
    with pytest.raises(ValueError, match="drop one"):
        stage_of("finetune", **{**off, "tune_mm_mlp_adapter": True})
    with pytest.raises(ValueError, match="leaves nothing to train"):
        stage_of("align", **{**off, "freeze_mm_mlp_adapter": True})


@pytest.mark.parametrize(
    ("device", "bf16", "fp16", "installed", "expected"),
    [
        ("cuda", True, False, True, "flash_attention_2"),
        ("cuda", False, True, True, "flash_attention_2"),
        ("cuda", False, False, True, "sdpa"),
        ("cpu", True, False, True, "sdpa"),
        ("cuda", True, False, False, "sdpa"),
    ],
)
def test_flash_attention_is_chosen_where_it_can_run(device, bf16, fp16, installed, expected, monkeypatch):
    monkeypatch.setattr("transformers.utils.is_flash_attn_2_available", lambda: installed)
    assert default_attention(SimpleNamespace(device=torch.device(device), bf16=bf16, fp16=fp16)) == expected


def test_a_run_on_the_cpu_has_no_flash_attention(monkeypatch, tmp_path):
    monkeypatch.setattr("transformers.utils.is_flash_attn_2_available", lambda: True)
    assert default_attention(_parse(f"{PRETRAIN} {COMMON}", tmp_path).training) == "sdpa"
