"""Recipes: read, checked, outranked by the command line; and those of configs/ against the models and the cards."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from transformers import CLIPVisionConfig

from llava.data.templates import get_template
from llava.model.configuration import as_compression
from llava.train.arguments import accumulation_steps, parse_arguments, recipe_flags
from llava.train.recipe import find_config
from llava.train.stages import STAGES

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / "llava" / "configs"
RECIPES = sorted((CONFIGS / "recipes").glob("*.yaml"))
HARDWARE = {file.stem: file for file in sorted((CONFIGS / "hardware").glob("*.yaml"))}
BUDGETS = {  # tokens: dominant + contextual of a tile (the paper's tables 8 and 9; NeXT counts five tiles)
    "v1.5": {"192": "162+30", "128": "108+20", "64": "54+10"},
    "v1.6": {"640": "108+20", "320": "54+10", "160": "27+5"},
    "mgm": {"192": "162+30", "128": "108+20", "64": "54+10"},
}


def parse(*files: Path, extra: str = ""):
    """The arguments of recipes on a machine without accelerator and DeepSpeed launcher."""
    words = recipe_flags([str(file) for file in files])
    if "--deepspeed" in words:
        at = words.index("--deepspeed")
        del words[at : at + 2]
    return parse_arguments([*words, *extra.split(), "--use_cpu", "True"])


# ---- reading ----


@pytest.fixture
def write(tmp_path):
    def write(name: str, text: str) -> str:
        (tmp_path / name).write_text(text)
        return str(tmp_path / name)

    return write


MINIMUM = "model_name_or_path: m\ndata_path: d.json\nuse_cpu: True\nreport_to: none\n"


def test_the_command_line_outranks_a_recipe_and_a_later_recipe_an_earlier_one(write, tmp_path):
    write("base.yaml", MINIMUM + "seed: 1\nlearning_rate: 1\nweight_decay: 1\nmax_grad_norm: 1\n")
    first = write("first.yaml", "extends: base.yaml\nlearning_rate: 2e-5\nweight_decay: 2\nmax_grad_norm: 2\n")
    second = write("second.yaml", "weight_decay: 3\nmax_grad_norm: 3\n")
    arguments = parse_arguments(["--max_grad_norm=4", "--recipe", first, second, "--output_dir", str(tmp_path)])
    training = arguments.training
    found = (training.seed, training.learning_rate, training.weight_decay, training.max_grad_norm)
    assert found == (1, 2e-5, 3, 4)
    assert arguments.recipe == (first, second)
    assert arguments.to_dict()["recipe"] == [first, second]


def test_words_mean_what_they_mean_on_the_command_line(write, tmp_path):
    text = "stage: projector\nevaluation_strategy: no\nwarmup_ratio: 0.03\nlearning_rate: 2e-5\nbf16: true\n"
    text += "mm_vision_select_layer: -2\nimage_grid_pinpoints: '[(336, 672)]'\nlogging_dir: gone\n"
    arguments = parse_arguments(["--recipe", write("r.yaml", MINIMUM + text), "--output_dir", str(tmp_path)])
    assert arguments.stage == STAGES["projector"]
    assert arguments.training.eval_strategy == "no"  # YAML 1.1 would read False
    assert arguments.training.learning_rate == 2e-5  # YAML 1.1 would read a text
    assert arguments.training.get_warmup_steps(1000) == 30
    assert arguments.training.bf16 and arguments.model.mm_vision_select_layer == -2
    assert arguments.data.image_grid_pinpoints == "[(336, 672)]"


def test_a_name_that_was_changed_and_its_old_one_are_the_same_flag(write, tmp_path):
    files = [write("a.yaml", MINIMUM + "warmup_steps: 10\n"), write("b.yaml", "warmup_ratio: 0.5\n")]
    arguments = parse_arguments(["--recipe", *files, "--output_dir", str(tmp_path)])
    assert arguments.training.get_warmup_steps(1000) == 500


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "seed: 1\nlerning_rate: 1\n",
            r"r\.yaml:2: lerning_rate is no flag of train\.py; did you mean learning_rate\?",
        ),
        ("learning_rate: fast\n", r"r\.yaml:1: learning_rate: invalid float value: 'fast'"),
        ("max_steps: 2.5\n", r"r\.yaml:1: max_steps: invalid int value: '2\.5'"),
        ("bf16: perhaps\n", r"r\.yaml:1: bf16: .*perhaps"),
        ("lr_scheduler_type: sine\n", r"r\.yaml:1: lr_scheduler_type: invalid choice: 'sine'"),
        ("seed: [1, 2]\n", r"r\.yaml:1: seed takes one value, not 2"),
        ("seed:\n", r"r\.yaml:1: seed needs a value"),
        ("seed: {a: 1}\n", r"r\.yaml:1: seed needs a value"),
        ("seed: 1\nseed: 2\n", r"r\.yaml:2: seed stands twice, first at .*r\.yaml:1"),
        ("- seed\n", r"r\.yaml: a recipe has lines of the form `flag: value`"),
        ("", r"r\.yaml: a recipe has lines"),
        ("seed: [1\n", r"r\.yaml is no YAML: .*line 2"),
        (f"seed: {'[' * 5000}{']' * 5000}\n", r"r\.yaml is no recipe: it is nested too deeply"),
        ("? [seed]\n: 1\n", r"r\.yaml:1: a key is a flag's name"),
        ("seed: &x [*x]\n", r"r\.yaml:1: seed needs a value"),
        ('model_name_or_path: "a\\0b"\n', r"--model_name_or_path 'a\\x00b' holds a NUL"),
        ("extends: none.yaml\n", r"r\.yaml:1: .*none\.yaml: there is no such file"),
        ("extends: r.yaml\n", r"r\.yaml:1: extends: r\.yaml: the files extend each other in a circle"),
        ("recipe: other.yaml\n", r"r\.yaml:1: recipe is no flag"),
    ],
)
def test_mistakes_are_told_with_file_and_line(text, message, write, tmp_path):
    with pytest.raises(ValueError, match=message) as caught:
        parse_arguments(["--recipe", write("r.yaml", text), "--output_dir", str(tmp_path)])
    assert "\n" not in str(caught.value)


def test_a_recipe_extends_a_shipped_one_by_name_and_a_chain_of_others(write, tmp_path, monkeypatch):
    first = write("first.yaml", "extends: llava-v1.5-7b-finetune\nseed: 1\nlearning_rate: 1\n")
    second = write("second.yaml", "extends: first.yaml\nseed: 2\n")
    monkeypatch.chdir(ROOT)
    shipped = recipe_flags(["llava-v1.5-7b-finetune"])
    assert shipped[:2] == ["--stage", "finetune"]
    at = shipped.index("--learning_rate") + 1
    expected = [*shipped[:at], "1", *shipped[at + 1 :], "--seed"]
    assert recipe_flags([first]) == [*expected, "1"]
    assert recipe_flags([second]) == [*expected, "2"]


def test_a_circle_of_recipes_is_named(write):
    first, second = write("first.yaml", "extends: second.yaml\n"), write("second.yaml", "extends: first.yaml\n")
    with pytest.raises(ValueError, match=r"second\.yaml:1: extends: first\.yaml: .* circle: ") as caught:
        recipe_flags([first])
    assert str(caught.value).endswith(f"{first} -> {second} -> {first}")


def test_a_missing_recipe_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"--recipe: .*gone\.yaml: there is no such file"):
        parse_arguments(["--recipe", str(tmp_path / "gone.yaml")])


# ---- those of configs/recipes ----


def test_there_is_a_recipe_for_each_setting_of_the_paper():
    tuned = {"v1.5-7b", "v1.5-13b", "v1.6-vicuna-7b", "v1.6-mistral-7b", "v1.6-vicuna-13b"}
    wanted = {f"llava-{model}-visionzip-{tokens}" for model in tuned for tokens in BUDGETS[model[:4]]}
    wanted |= {f"llava-{model}-{stage}" for model in tuned for stage in ("align", "finetune", "lora", "qlora")}
    wanted |= {f"llava-v1.5-7b-finetune-visionzip-{tokens}" for tokens in BUDGETS["v1.5"]}
    wanted |= {"llava-v1.6-vicuna-7b-finetune-visionzip-640"}
    wanted |= {f"llava-v1.5-{size}-{stage}-task" for size in ("7b", "13b") for stage in ("finetune", "lora")}
    wanted |= {f"llava-{model}-projector-task" for model in tuned}
    wanted |= {f"mgm-7b-visionzip-{tokens}" for tokens in BUDGETS["mgm"]}
    wanted |= {"llava-v1.5-7b-visionzip-range"}  # ours, not the paper's, as are those of coverage
    wanted |= {f"llava-v1.5-{size}-coverage-64" for size in ("7b", "13b")}
    wanted |= {f"llava-v1.6-vicuna-{size}-coverage-160" for size in ("7b", "13b")}
    assert {file.stem for file in RECIPES} == wanted


@pytest.mark.parametrize("file", RECIPES, ids=lambda file: file.stem)
def test_each_recipe_is_what_its_name_says(file):
    arguments = parse(file)
    model, data, training = arguments.model, arguments.data, arguments.training
    stages = "align|finetune|lora|qlora|projector|visionzip|coverage"
    words = re.fullmatch(
        rf"(?:llava-)?(v1\.[56]|mgm)-(.+?)-({stages})(?:-visionzip|-task|-range)?(?:-(\d+))?", file.stem
    )
    assert words is not None
    generation, size, stage, tokens = words.groups()
    assert training.output_dir == f"checkpoints/{file.stem}"
    assert arguments.stage.name == {"visionzip": "projector", "coverage": "projector"}.get(stage, stage)
    assert size.removeprefix("vicuna-").removeprefix("mistral-") in model.model_name_or_path.lower()
    is_stage_2 = stage != "align"
    expected = {"v1.5": "pad", "v1.6": "anyres", "mgm": "pad"}[generation] if is_stage_2 else "square"
    assert data.image_aspect_ratio == expected
    of_language_model = "mistral_instruct" if "mistral" in size else "v1"
    if model.model_name_or_path.startswith(("liuhaotian/", "YanweiLi/")):  # a LLaVA has a template of its own
        assert model.version is None
    else:
        assert model.version == (of_language_model if is_stage_2 else "plain") and get_template(model.version)

    # LLaVA's published settings, and for the projector those of its stage 2.
    rates = {"align": (1e-3, None), "lora": (2e-4, 2e-5), "qlora": (2e-4, 2e-5)}
    assert (training.learning_rate, training.mm_projector_lr) == rates.get(stage, (2e-5, None))
    assert training.global_batch_size == (128 if is_stage_2 else 256)
    assert (training.num_train_epochs, training.lr_scheduler_type, training.weight_decay) == (1, "cosine", 0)
    assert training.get_warmup_steps(1000) == 30
    assert data.data_fraction == (0.1 if stage in ("visionzip", "coverage") else 1)
    if "lora" in stage:
        assert (training.lora_r, training.lora_alpha, training.bits) == (128, 256, 4 if stage == "qlora" else 16)
    if not file.stem.endswith("-range"):
        assert training.tuning_flags() == {}
    check_budget(generation, stage, "64" if file.stem.endswith("-range") else tokens, model.compression)


def check_budget(generation: str, stage: str, tokens: str | None, compression: str | None) -> None:
    """The budget is the paper's, or as many tokens of coverage; the tower's 576 patches can fill it."""
    if tokens is None:
        assert compression is None
        return
    expected = f"visionzip:{BUDGETS[generation][tokens]}"
    if stage == "coverage":
        expected = {"v1.5": "coverage:64", "v1.6": "coverage:32"}[generation]
    assert compression == expected
    budget = as_compression(compression)
    assert budget is not None
    assert budget.num_tokens * (5 if generation == "v1.6" else 1) == int(tokens)
    tower = CLIPVisionConfig(image_size=336, patch_size=14)
    assert budget.num_tokens <= (tower.image_size // tower.patch_size) ** 2


def test_a_range_of_budgets_is_drawn_and_distilled():
    assert parse(CONFIGS / "recipes" / "llava-v1.5-7b-visionzip-range.yaml").training.tuning_flags() == {
        "compression_schedule": "cosine",
        "compression_start": "none",
        "compression_share": 0.5,
        "compression_draw": "64-192",
        "distill_from": "none",
        "distill_weight": 0.7,
        "distill_temperature": 1.0,
        "distill_teacher": "start",
    }


# ---- those of configs/hardware ----


@pytest.mark.parametrize("hardware", HARDWARE)
def test_each_machine_makes_llavas_batches(hardware):
    tune, align = (CONFIGS / "recipes" / f"llava-v1.5-7b-{name}.yaml" for name in ("visionzip-64", "align"))
    for recipe in (tune, align):
        training = parse(recipe, HARDWARE[hardware]).training
        cards = int(hardware.partition("x")[0])
        accumulation_steps(training.global_batch_size, training.per_device_train_batch_size, cards)
        assert training.fp16 == hardware.endswith("fp16") and training.bf16 != training.fp16


@pytest.mark.parametrize("name", ["zero1", "zero2", "zero2_offload", "zero3", "zero3_offload"])
def test_deepspeed_configs_leave_to_the_flags_what_the_flags_say(name):
    file = CONFIGS / "deepspeed" / f"{name}.json"
    config = json.loads(file.read_text())
    zero = config.pop("zero_optimization")
    assert zero["stage"] == int(name[4])
    assert ("offload_optimizer" in zero) == name.endswith("offload")
    assert ("offload_param" in zero) == (name == "zero3_offload")
    assert zero.get("stage3_gather_16bit_weights_on_model_save", False) == (zero["stage"] == 3)
    assert {value["enabled"] if isinstance(value, dict) else value for value in config.values()} == {"auto"}
    assert (ROOT / "scripts" / file.name).exists() == (name in ("zero2", "zero3", "zero3_offload"))


def test_the_files_that_readme_and_llavas_scripts_name_are_those_of_the_package():
    """Links, as git keeps them; a copy without them would need these files with the same bytes."""
    copies = [*(ROOT / "configs").rglob("*.*"), *(ROOT / "scripts").glob("*.json")]
    assert len([file for file in copies if file.is_file()]) == len(RECIPES) + 9 + len(HARDWARE) + 5 + 3 + 2 + 7
    for file in copies:
        kind = file.relative_to(ROOT / "configs") if "configs" in file.parts else Path("deepspeed") / file.name
        assert file.read_bytes() == (CONFIGS / kind).read_bytes(), file


# ---- names ----


def test_recipes_machines_and_deepspeed_configs_are_found_by_name_from_any_folder(tmp_path, monkeypatch):
    files = [str(CONFIGS / "recipes" / "llava-v1.5-7b-visionzip-64.yaml"), str(HARDWARE["8x24gb"])]
    monkeypatch.chdir(tmp_path)
    names = ["llava-v1.5-7b-visionzip-64", "8x24gb"]
    assert recipe_flags(names) == recipe_flags(files)
    assert recipe_flags(names)[-2:] == ["--deepspeed", "zero2"]
    assert find_config("zero2", "deepspeed", flag="--deepspeed") == CONFIGS / "deepspeed" / "zero2.json"
    assert len({file.stem for file in RECIPES} | set(HARDWARE)) == len(RECIPES) + len(HARDWARE)


def test_a_file_outranks_a_name(write, tmp_path, monkeypatch):
    write("8x24gb", "seed: 7\n")
    monkeypatch.chdir(tmp_path)
    assert recipe_flags(["8x24gb"]) == ["--seed", "7"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--recipe", "llava-v1.5-7b-visonzip-64"], r"--recipe: .* did you mean llava-v1\.5-7b-visionzip-64"),
        (["--recipe", "xyzzy"], r"--recipe: xyzzy: there is no such file, .*; names are those of the files in "),
        (["--deepspeed", "zero9"], r"--deepspeed: zero9: there is no such file, .* did you mean "),
    ],
)
def test_an_unknown_name_is_answered_with_near_ones(words, message, tmp_path):
    given = ["--model_name_or_path", "m", "--data_path", "d", "--output_dir", str(tmp_path), "--use_cpu", "True"]
    with pytest.raises(ValueError, match=message):
        parse_arguments([*given, *words])
