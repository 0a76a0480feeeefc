"""The package as a stranger meets it: what it imports, what it needs, what lies in the repository."""

import ast
import shutil
import subprocess
import sys
import tomllib
import zipfile
from importlib.util import find_spec
from itertools import chain
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[1]
TOP_LEVEL = {
    *("llava", "scripts", "playground", "configs", "docs", "tests", "benchmarks", "notebooks"),
    *("pyproject.toml", "mkdocs.yml", "constraints.txt", "README.md", "LICENSE", "CHANGELOG.md", "Makefile"),
    *("CONTRIBUTING.md", "CITATION.cff", "SECURITY.md"),
}
# Modules that are of an extra as a whole; what imports them does so inside a function.
OF_AN_EXTRA = {
    **{f"llava.serve.web.{name}": {"gradio", "starlette"} for name in ("page", "handlers", "server")},
    **{
        f"llava.serve.api.{name}": {"fastapi", "prometheus_client", "pydantic", "starlette", "uvicorn"}
        for name in ("answering", "app", "metrics", "protocol", "questions", "request", "run", "service")
    },
}
EXTRAS = (
    *("deepspeed", "wandb", "flash_attn", "bitsandbytes", "sklearn", "matplotlib", "gradio", "starlette", "av"),
    *("fastapi", "uvicorn", "prometheus_client", "pydantic"),
)

# Makes packages absent, as they are on a machine that never installed them: they are not found, rather than broken.
WITHOUT = """
import sys
from importlib.machinery import PathFinder

class Without(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] in {blocked} else super().find_spec(name, path, target)

sys.meta_path[sys.meta_path.index(PathFinder)] = Without
"""

ASK = """
from pathlib import Path
from llava.inference import GenerationOptions, Inference

inference = Inference.load({model!r}, device="cpu", compression="visionzip:54+10")
answer = inference.ask_one("What is this?", {image!r}, options=GenerationOptions(max_new_tokens=4))
assert answer.visual_tokens == 64 and answer.token_ids, answer
assert not {blocked} & {{name.partition(".")[0] for name in sys.modules}}
"""


def python(code: str, *flags: str) -> str:
    done = subprocess.run(
        [sys.executable, *flags, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def tracked_files() -> list[Path]:
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [Path(name) for name in listed.split("\0") if name and (ROOT / name).exists()]


def test_import_is_light() -> None:
    code = """
import sys, time
start = time.process_time()  # of the processor: other work on the machine does not count
import llava
seconds = time.process_time() - start
heavy = {"torch", "transformers", "numpy", "PIL"} & set(sys.modules)
assert not heavy, heavy
assert seconds < 0.3, seconds
assert "load_pretrained_model" in dir(llava)
"""
    python(code)


def test_extras_are_imported_late() -> None:
    """Inside functions only, so that what does not need them runs without; the slow test below runs it so."""
    for file in (path for path in tracked_files() if path.suffix == ".py" and path.parts[0] == "llava"):
        body = ast.parse((ROOT / file).read_text(encoding="utf-8")).body
        names = [alias.name for node in body if isinstance(node, ast.Import) for alias in node.names]
        names += [node.module or "" for node in body if isinstance(node, ast.ImportFrom)]
        module = ".".join(file.with_suffix("").parts)
        late = set(EXTRAS) - OF_AN_EXTRA.get(module, set())
        assert not {name.partition(".")[0] for name in names} & late, file
        assert module in OF_AN_EXTRA or not set(names) & set(OF_AN_EXTRA), file


@pytest.mark.slow  # imports everything once more
def test_inference_works_without_the_extras(oracle_dir: Path) -> None:
    blocked = repr(set(EXTRAS))
    model, image = oracle_dir / "tiny-llava-v1.5", oracle_dir / "images" / "square.png"
    python(WITHOUT.format(blocked=blocked) + ASK.format(model=str(model), image=str(image), blocked=blocked))


def test_blocked_packages_are_really_absent() -> None:
    installed = [name for name in EXTRAS if find_spec(name)]
    assert installed, "the dev extra brings scikit-learn and matplotlib"
    code = (
        WITHOUT.format(blocked=repr(set(EXTRAS)))
        + f"""
for name in {installed}:
    try:
        __import__(name)
    except ModuleNotFoundError:
        continue
    raise SystemExit(f"{{name}} was imported")
"""
    )
    python(code)


def test_the_top_level_is_what_it_says() -> None:
    visible = {file.parts[0] for file in tracked_files() if not file.parts[0].startswith(".")}
    assert visible == TOP_LEVEL


def test_the_house_has_every_room() -> None:
    rooms = {path.name for path in (ROOT / "llava").iterdir() if path.is_dir() and path.name[0] not in "_."}
    page = (ROOT / "docs" / "house.md").read_text(encoding="utf-8")
    lines = [line for line in page.splitlines() if line.startswith("    ")]
    assert rooms - {"configs"} == {
        word.rstrip("/") for line in lines for word in line.split() if word.endswith("/")
    } - {
        "checkpoints",
        "prepare",
    }


def test_results_are_kept_from_every_other_room() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"][
        "contracts"
    ]
    [listed] = [one["forbidden_modules"] for one in contracts if one.get("source_modules") == ["llava.results"]]
    found = {
        path.stem for path in (ROOT / "llava").iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()
    }
    assert set(listed) == {f"llava.{name}" for name in found - {"__init__", "__main__", "results"}}


def test_no_pickle_is_tracked() -> None:
    for file in tracked_files():
        assert file.suffix not in {".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt"}, file
        if zipfile.is_zipfile(ROOT / file):  # torch.save, or an .npz with objects inside
            names = zipfile.ZipFile(ROOT / file).namelist()
            assert not any(name.endswith(".pkl") for name in names), file


def test_pins_are_inside_the_ranges() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = {name.lower().replace("_", "-"): version for name, _, version in (line.partition("==") for line in lines)}
    for line in chain(project["dependencies"], *project["optional-dependencies"].values()):
        wanted = Requirement(line)
        name = wanted.name.lower().replace("_", "-")
        if name not in {project["name"], "flash-attn"}:  # flash-attn is built against the user's own CUDA
            assert name in pins, f"{line} of pyproject.toml is not in constraints.txt"
            assert pins[name] in wanted.specifier, f"{name}=={pins[name]} is outside {line}"


def code_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of a function but for its docstring, which may be as long as its shapes and errors need."""
    first = function.body[0]
    has_docstring = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
    docstring = first.end_lineno - first.lineno + 1 if has_docstring else 0
    return function.end_lineno - function.lineno + 1 - docstring


def test_files_and_functions_stay_short() -> None:
    too_long = []
    for file in (path for path in tracked_files() if path.suffix == ".py"):
        source = (ROOT / file).read_text(encoding="utf-8")
        if source.count("\n") > 400:
            too_long.append(str(file))
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and code_lines(node) > 60:
                too_long.append(f"{file}: {node.name} ({code_lines(node)} lines)")
    assert not too_long
