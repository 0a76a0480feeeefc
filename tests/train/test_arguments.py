from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from llava.train.arguments import accumulation_steps, parse_arguments, translate_flags
from llava.train.stages import STAGES, stage_of
from llava.train.train_mem import default_attention

ROOT = Path(__file__).parents[2]

# The flags of every launch script that LLaVA published (github.com/haotian-liu/LLaVA, scripts/*.sh and
# scripts/v1_5/*.sh): those that all of them pass, and what each adds.
EVERY = """--mm_vision_select_layer -2 --mm_use_im_start_end False --mm_use_im_patch_token False --bf16 True
    --output_dir ./checkpoints/llava --per_device_eval_batch_size 4 --evaluation_strategy no --save_strategy steps
    --save_total_limit 1 --weight_decay 0. --warmup_ratio 0.03 --lr_scheduler_type cosine --logging_steps 1
    --tf32 True --model_max_length 2048 --gradient_checkpointing True --dataloader_num_workers 4
    --lazy_preprocess True --report_to wandb"""
V1 = "--vision_tower openai/clip-vit-large-patch14 --gradient_accumulation_steps 1"
V1_5 = """--vision_tower openai/clip-vit-large-patch14-336 --mm_projector_type mlp2x_gelu --num_train_epochs 1
    --gradient_accumulation_steps 1"""
PRETRAINED = "--pretrain_mm_mlp_adapter ./checkpoints/llava-pretrain/mm_projector.bin"
LORA_V1_5 = "--lora_enable True --lora_r 128 --lora_alpha 256 --mm_projector_lr 2e-5"
V1_FINETUNE = f"""{V1} {PRETRAINED} --deepspeed ./scripts/zero2.json --model_name_or_path ./checkpoints/vicuna-v1-3-7b
    --version v1 --image_folder /path/to/coco/train2017 --per_device_train_batch_size 16 --save_steps 50000
    --learning_rate 2e-5"""
V1_80K = f"{V1_FINETUNE} --data_path ./playground/data/llava_instruct_80k.json --num_train_epochs 1"
V1_PRETRAIN = """--vision_tower openai/clip-vit-large-patch14 --deepspeed ./scripts/zero2.json --version plain
    --model_name_or_path ./checkpoints/vicuna-v1-3-7b --data_path /path/to/pretrain_data.json
    --image_folder /path/to/images --tune_mm_mlp_adapter True --num_train_epochs 1 --save_steps 24000
    --learning_rate 2e-3"""
V1_5_TWO = f"""{V1_5} --version v1 --deepspeed ./scripts/zero3.json --image_aspect_ratio pad
    --data_path ./playground/data/llava_v1_5_mix665k.json --image_folder ./playground/data
    --group_by_modality_length True --per_device_train_batch_size 16 --save_steps 50000"""
FROM_VICUNA = f"--model_name_or_path lmsys/vicuna-13b-v1.5 {PRETRAINED}"
FROM_LLAVA = "--model_name_or_path liuhaotian/llava-v1.5-13b"
PUBLISHED = {  # script: what it adds to EVERY, the stage that it means, its learning rate
    "pretrain": (f"{V1_PRETRAIN} --per_device_train_batch_size 16 --gradient_accumulation_steps 1", "align", 2e-3),
    "pretrain_xformers": (
        f"{V1_PRETRAIN} --per_device_train_batch_size 4 --gradient_accumulation_steps 4 --bf16 False --tf32 False",
        "align",
        2e-3,
    ),
    "finetune": (V1_80K, "finetune", 2e-5),
    "finetune_full_schedule": (
        f"{V1_FINETUNE} --data_path ./playground/data/llava_instruct_158k.json --num_train_epochs 3",
        "finetune",
        2e-5,
    ),
    "finetune_sqa": (f"{V1_FINETUNE} --data_path ./llava_train_QCM-LEA.json --num_train_epochs 12", "finetune", 2e-5),
    "finetune_lora": (f"{V1_80K} --lora_enable True", "lora", 2e-5),
    "finetune_qlora": (f"{V1_80K} --lora_enable True --bits 4", "qlora", 2e-5),
    "v1_5/pretrain": (
        f"""{V1_5} --deepspeed ./scripts/zero2.json --model_name_or_path lmsys/vicuna-13b-v1.5 --version plain
        --data_path ./playground/data/LLaVA-Pretrain/blip_laion_cc_sbu_558k.json
        --image_folder ./playground/data/LLaVA-Pretrain/images --tune_mm_mlp_adapter True
        --per_device_train_batch_size 32 --save_steps 24000 --learning_rate 1e-3""",
        "align",
        1e-3,
    ),
    "v1_5/finetune": (f"{V1_5_TWO} {FROM_VICUNA} --learning_rate 2e-5", "finetune", 2e-5),
    "v1_5/finetune_lora": (f"{LORA_V1_5} {V1_5_TWO} {FROM_VICUNA} --learning_rate 2e-4", "lora", 2e-4),
    "v1_5/finetune_task": (f"{V1_5_TWO} {FROM_LLAVA} --learning_rate 2e-5", "finetune", 2e-5),
    "v1_5/finetune_task_lora": (f"{LORA_V1_5} {V1_5_TWO} {FROM_LLAVA} --learning_rate 2e-4", "lora", 2e-4),
}
PRETRAIN, FINETUNE = (f"{EVERY} {PUBLISHED[f'v1_5/{name}'][0]}" for name in ("pretrain", "finetune"))


def _parse(text, tmp_path):
    """Arguments of flags, but for DeepSpeed, which starts its processes when its flag is read."""
    words = text.split()
    while "--deepspeed" in words:
        at = words.index("--deepspeed")
        assert (ROOT / words[at + 1]).is_file()
        del words[at : at + 2]
    return parse_arguments([*words, "--use_cpu", "True", "--output_dir", str(tmp_path)])


@pytest.mark.parametrize("script", PUBLISHED)
def test_llavas_published_scripts_are_understood(script, tmp_path):
    text, stage, rate = PUBLISHED[script]
    arguments = _parse(f"{EVERY} {text}", tmp_path)
    assert arguments.stage == STAGES[stage]
    model, training = arguments.model, arguments.training
    assert training.eval_strategy == "no"
    assert training.get_warmup_steps(1000) == 30
    assert training.gradient_checkpointing
    assert training.bf16 == (script != "pretrain_xformers")
    assert training.learning_rate == rate
    assert training.report_to == ["wandb"]
    assert training.group_by_modality_length == ("--group_by_modality_length" in text)
    assert model.version == ("plain" if stage == "align" else "v1")
    assert (model.pretrain_mm_mlp_adapter is None) == (stage == "align" or "task" in script)
    if stage in ("lora", "qlora"):
        expected = (128, 256, 2e-5) if script.startswith("v1_5") else (64, 16, None)
        assert (training.lora_r, training.lora_alpha, training.mm_projector_lr) == expected
        assert training.bits == (4 if stage == "qlora" else 16)


def test_the_other_flags_of_llava_are_understood(tmp_path):
    """Those that LLaVA has and no published script passes, and those of its later training code."""
    arguments = _parse(
        f"""{FINETUNE} --freeze_mm_mlp_adapter True --mm_projector_lr 1e-5 --mm_vision_tower_lr 2e-6
        --mm_patch_merge_type spatial_unpad --image_grid_pinpoints [(336,672),(672,336)] --image_aspect_ratio anyres
        --mm_vision_select_feature patch --is_multimodal True --cache_dir ./cache --mpt_attn_impl triton
        --lora_dropout 0.1 --lora_bias none --lora_weight_path w --double_quant False --quant_type fp4""",
        tmp_path,
    )
    assert arguments.stage.trained == {"language_model"}
    assert arguments.data.image_aspect_ratio == "anyres" and arguments.model.mm_patch_merge_type == "spatial_unpad"
    training = arguments.training
    assert (training.mm_projector_lr, training.lora_dropout, training.quant_type) == (1e-5, 0.1, "fp4")


def test_evaluation_and_bad_images_have_flags(tmp_path):
    data = _parse(f"{FINETUNE} --eval_data_path e.json --eval_generate 8 --max_bad_fraction 0.01", tmp_path).data
    assert (data.eval_data_path, data.eval_generate, data.max_bad_fraction) == ("e.json", 8, 0.01)
    assert _parse(FINETUNE, tmp_path).data.max_bad_fraction == 0.001


def test_renamed_flags_are_translated_in_every_spelling():
    words = ["--warmup_ratio=0.1", "--evaluation-strategy", "no", "--logging_dir", "logs", "--lr", "-1"]
    assert translate_flags(words) == ["--warmup_steps=0.1", "--eval_strategy", "no", "--lr", "-1"]


def test_unknown_flags_are_refused(tmp_path, capsys):
    with pytest.raises((SystemExit, ValueError)):
        _parse(f"{PRETRAIN} --lerning_rate 1", tmp_path)
    with pytest.raises((SystemExit, ValueError)):
        _parse(f"{PRETRAIN} --recip r.yaml", tmp_path)


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ("--eval_generate 3", "--eval_generate 3 needs the questions of --eval_data_path"),
        ("--eval_generate -1", "--eval_generate -1 must not be negative"),
        ("--max_bad_fraction 2", "--max_bad_fraction 2.0 must be between 0 and 1"),
        ("--mm_use_im_start_end True", "--mm_use_im_start_end True is not supported"),
        ("--global_batch_size 100", "--global_batch_size 100 is not a multiple of 32"),
    ],
)
def test_what_cannot_be_done_is_said(extra, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        _parse(f"{PRETRAIN} {extra}", tmp_path)


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
    assert default_attention(_parse(PRETRAIN, tmp_path).training) == "sdpa"
