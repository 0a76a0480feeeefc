"""`run_llava`: the reference's own greedy answers, by the command line and by LLaVA's documented call."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from llava.eval.run_llava import eval_model, image_parser, load_image, load_images, main
from llava.mm_utils import get_model_name_from_path
from llava.prompts.tokenization import load_tokenizer


@pytest.fixture(scope="module")
def asked(oracle_dir: Path) -> tuple[str, str]:
    """The query and the reference's greedy answer about the first picture of `v15_visionzip_54_10`."""
    recorded = np.load(Path(__file__).parents[1] / "fixtures" / "oracle" / "v15_visionzip_54_10.npz")
    tokenizer = load_tokenizer(oracle_dir / "tiny-llava-v1.5")
    ids = recorded["input_ids"].tolist()
    place = ids.index(-200)
    assert "between a curious human and" in tokenizer.decode(ids[:place]), "the template is llava_v1"
    query = tokenizer.decode(ids[place + 1 :]).removesuffix("ASSISTANT:").strip()
    answer = tokenizer.decode(recorded["generated_0"].flatten()[1:], skip_special_tokens=True).strip()
    return query, answer


def test_documented_call_gives_the_references_answer(
    oracle_dir: Path, asked: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    query, expected = asked
    model_path = str(oracle_dir / "tiny-llava-v1.5")
    arguments = {
        "model_path": model_path,
        "model_base": None,
        "model_name": get_model_name_from_path(model_path),
        "query": query,
        "conv_mode": "llava_v1",
        "image_file": str(oracle_dir / "images" / "landscape.png"),
        "sep": ",",
        "temperature": 0,
        "top_p": None,
        "num_beams": 1,
        "max_new_tokens": 12,
    }
    assert eval_model(SimpleNamespace(**arguments, compression="visionzip:54+10", device="cpu")) == expected
    assert capsys.readouterr().out.strip().endswith(expected)
    # And LLaVA's way to make the object, without our own two fields.
    assert isinstance(eval_model(type("Args", (), arguments)()), str)


def test_the_helpers_that_llava_programs_import(oracle_dir: Path) -> None:
    paths = [str(oracle_dir / "images" / name) for name in ("small.png", "square.png")]
    files = image_parser(SimpleNamespace(image_file=";".join(paths), sep=";"))
    assert files == paths
    assert [image.tobytes() for image in load_images(files)] == [load_image(path).tobytes() for path in paths]
    assert load_image(paths[0]).mode == "RGB"


def test_command_line_takes_several_images(oracle_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = [str(oracle_dir / "images" / name) for name in ("small.png", "square.png")]
    arguments = ["--model-path", str(oracle_dir / "tiny-llava-v1.5"), "--image-file", ";".join(images), "--sep", ";"]
    arguments += [
        "--query",
        "Is <image-placeholder> like <image-placeholder>?",
        "--temperature",
        "0",
        "--device",
        "cpu",
    ]
    assert main([*arguments, "--max_new_tokens", "4", "--compression", "visionzip:54+10"]) == 0
    assert capsys.readouterr().out.strip()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"--image-file": "nowhere.png"}, "nowhere.png"),
        ({"--model-path": "no_such_folder/model"}, "no_such_folder"),
        ({"--compression": "visionzip:900+10"}, "900"),
        ({"--device": "gpu"}, "device 'gpu'"),
        ({"--query": "<image><image> hi"}, "2 <image>"),
        ({"--max_new_tokens": "0"}, "max_new_tokens"),
        ({"--top_p": "3"}, "top_p"),
    ],
)
def test_a_users_mistake_ends_in_one_line(oracle_dir: Path, wrong: dict[str, str], message: str) -> None:
    flags = {"--model-path": str(oracle_dir / "tiny-llava-v1.5"), "--query": "What?", "--device": "cpu"}
    flags |= {"--image-file": str(oracle_dir / "images" / "small.png")} | wrong
    with pytest.raises(SystemExit, match=rf"error: .*{message}"):
        main([word for pair in flags.items() for word in pair])


@pytest.mark.parametrize(
    "module", ["llava.eval", "llava.eval.run_llava", "llava.serve.cli", "llava.analysis.efficiency"]
)
def test_help_loads_no_torch(module: str) -> None:
    program = (
        "import runpy, sys\nsys.argv = ['x', '--help']\n"
        f"try:\n    runpy.run_module({module!r}, run_name='__main__')\n"
        "except SystemExit:\n    pass\nassert 'torch' not in sys.modules, 'torch was imported'"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "--compression" in done.stdout


def test_a_bad_byte_in_a_question_is_told_of_before_anything_is_read(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--model-path", "nowhere", "--image-file", "nowhere.png", "--query", "caf\udce9?"])
    assert "argument --query: 'caf\\udce9?': place 3 is no character" in capsys.readouterr().err
