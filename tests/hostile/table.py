"""The table: bad inputs, and the front doors that read them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tests.hostile import checkpoints, images

OUT = "@OUT@"


@dataclass(frozen=True)
class Case:
    """One bad input at one front door.

    Attributes:
        id: `door: input`.
        words: The command line, as after `llava`.
        names: What the error must hold: file, field, value.
        keys: What is typed into a chat.
        status: Exit statuses that are right.
        writes: Whether the command may leave files: where one bad question must not end the others.
    """

    id: str
    words: tuple[str, ...]
    names: tuple[str, ...] = ()
    keys: str = ""
    status: tuple[int, ...] = (1, 2)
    writes: bool = False


@dataclass(frozen=True)
class World:
    """What is sound: a model, a picture, questions, training data; and a folder for all that is not."""

    root: Path
    model: Path
    picture: Path
    data: Path

    @property
    def out(self) -> str:
        """Stands for a new folder, where a command is told to write."""
        return OUT


def ask(world: World, model: Any = None, image: Any = None, *more: str) -> tuple[str, ...]:
    """`llava ask`."""
    words = ("ask", "--model-path", str(model or world.model), "--image-file", str(image or world.picture))
    return (*words, "--query", "What is this?", "--device", "cpu", "--max-new-tokens", "2", *more)


def chat(world: World, model: Any = None, image: Any = None, *more: str) -> tuple[str, ...]:
    """`llava chat`."""
    words = ("chat", "--model-path", str(model or world.model), "--image-file", str(image or world.picture))
    return (*words, "--device", "cpu", "--max-new-tokens", "2", *more)


def evaluate(world: World, model: Any = None, data: Any = None, *more: str) -> tuple[str, ...]:
    """`llava eval` on `tiny_vqa`."""
    words = ("eval", "--model-path", str(model or world.model), "--tasks", "tiny_vqa", "--device", "cpu")
    words += ("--data-root", str(data or world.data), "--output-dir", world.out, "--latency-repeats", "0")
    return (*words, *more)


def tune(world: World, model: Any = None, data: Any = None, *more: str) -> tuple[str, ...]:
    """Projector tuning, one step."""
    words = ("train", "--model-path", str(model or world.model), "--stage", "projector", "--max-steps", "1")
    words += ("--data-path", str(data or world.data / "train_tiny.json"), "--image-folder", str(world.data / "images"))
    words += ("--output-dir", world.out, "--report-to", "none", "--use-cpu", "True", "--disable-tqdm", "True")
    return (*words, *more)


def export(world: World, model: Any, *more: str) -> tuple[str, ...]:
    """`llava export --to hf`."""
    return ("export", str(model), "--to", "hf", "--output-dir", world.out, *more)


def validate(world: World, data: Any, *more: str) -> tuple[str, ...]:
    """`llava validate`."""
    words = ("validate", "--data-path", str(data), "--image-folder", str(world.data / "images"))
    return (*words, "--model-path", str(world.model), *more)


def modules(world: World, name: str, *words: str) -> tuple[str, ...]:
    """One of LLaVA's modules that ask a model."""
    return (f"llava.eval.{name}", "--model-path", str(world.model), "--device", "cpu", *words)


def of_checkpoints(world: World) -> Iterator[Case]:
    """Broken checkpoints, at the commands that load, train, copy and check one."""
    for name, (_, names) in checkpoints.BROKEN.items():
        folder = checkpoints.make(name, world.model, world.root / "models" / name)
        if name == "code":  # loads as plain data: its code is neither run nor asked about
            yield Case(f"ask: {name}", ask(world, folder), status=(0,))
            continue
        yield Case(f"ask: {name}", ask(world, folder), names)
        if name == "weights-nan":
            yield Case(f"export: {name}", export(world, folder), names)
            continue
        yield Case(f"train: {name}", tune(world, folder), names)
        if not name.startswith("generation"):
            yield Case(f"export: {name}", export(world, folder), names)
        if name.startswith(("config", "weights")):
            yield Case(f"eval: {name}", evaluate(world, folder), names)
            yield Case(f"verify: {name}", ("verify", str(folder)), ())
    for name, (_, names) in checkpoints.BROKEN_ADAPTERS.items():
        folder = checkpoints.make_adapter(name, world.model, world.root / "models" / name)
        yield Case(f"ask: {name}", ask(world, folder), names)
        merge = ("merge", "--model-path", str(folder), "--output-dir", world.out)
        yield Case(f"merge: {name}", merge, names)


def of_images(world: World) -> Iterator[Case]:
    """Files that are no sound image, at the commands that open one."""
    folder = images.make(world.root / "pictures")
    for name in images.NAMES:
        file = folder / name
        yield Case(f"ask: {name}", ask(world, image=file), (name,))
        yield Case(f"chat: {name}", chat(world, image=file), (name,), keys="What?\n\n")
        drawn = ("kept-tokens", "--model-path", str(world.model), "--image-file", str(file), "--output", world.out)
        yield Case(f"kept-tokens: {name}", (*drawn, "--compression", "visionzip:54+10"), (name,))
        data = world.root / "questions" / name
        (data / "images").parent.mkdir(parents=True)
        (data / "images").symlink_to(folder)
        rows = [{"image": name, "answer": "1", "kind": "digit", "question_id": 0, "text": "Which digit?"}]
        (data / "eval_vqa.json").write_text(json.dumps(rows))
        yield Case(f"eval: {name}", evaluate(world, None, data), (name,), status=(0, 1), writes=True)
        record = [{"id": "0", "image": name, "conversations": _TURNS}]
        (data / "train.json").write_text(json.dumps(record))
        words = ("validate", "--data-path", str(data / "train.json"), "--image-folder", str(folder))
        yield Case(f"validate: {name}", (*words, "--model-path", str(world.model)), (name,))
        lines = json.dumps({"question_id": 0, "image": name, "text": "What is this?"})
        (data / "q.jsonl").write_text(lines + "\n")
        words = ("--question-file", str(data / "q.jsonl"), "--image-folder", str(folder))
        answers = str(world.root / "answers" / f"{name}.jsonl")
        yield Case(
            f"model_vqa: {name}", modules(world, "model_vqa", *words, "--answers-file", answers), (name,),
            status=(0, 1), writes=True,
        )  # fmt: skip


_TURNS = [{"from": "human", "value": "<image>\nWhat is this?"}, {"from": "gpt", "value": "A square."}]
_NO_IMAGE_TOKEN = [{"from": "human", "value": "What is this?"}, {"from": "gpt", "value": "A square."}]

# Training data: what the file holds, and what the error must.
DATA: dict[str, tuple[bytes, tuple[str, ...]]] = {
    "empty.json": (b"", ("empty.json",)),
    "no-json.json": (b"[{'id': 1}]", ("no-json.json",)),
    "no-utf8.json": (b'[{"id": "\xff"}]', ("no-utf8.json",)),
    "deep.json": (b"[" * 100_000, ("deep.json",)),
    "number.json": (b"5", ("number.json",)),
    "no-entry.json": (b"[]", ("no-entry.json",)),
    "numbers.json": (b"[1, 2]", ("numbers.json", "0")),
    "no-turns.json": (json.dumps([{"id": "7"}]).encode(), ("no-turns.json", "conversations")),
    "turns-text.json": (json.dumps([{"id": "7", "conversations": "hi"}]).encode(), ("conversations",)),
    "no-image-token.json": (
        json.dumps([{"id": "7", "image": "square.png", "conversations": _NO_IMAGE_TOKEN}]).encode(),
        ("no-image-token.json", "<image>"),
    ),
    "outside.json": (
        json.dumps([{"id": "7", "image": "../../etc/passwd", "conversations": _TURNS}]).encode(),
        ("outside.json", "../../etc/passwd"),
    ),
    "image-number.json": (
        json.dumps([{"id": "7", "image": 5, "conversations": _TURNS}]).encode(),
        ("image-number.json", "image"),
    ),
}


def of_training_data(world: World) -> Iterator[Case]:
    """Broken data files, at the commands that read one."""
    folder = world.root / "data"
    folder.mkdir()
    for name, (data, names) in DATA.items():
        (folder / name).write_bytes(data)
        is_json = name not in ("empty.json", "no-json.json", "no-utf8.json", "deep.json", "number.json")
        yield Case(f"train: {name}", tune(world, None, folder / name), names)
        named = tuple(text for text in names if text != name) if is_json else names  # rows are named by number
        yield Case(f"validate: {name}", validate(world, folder / name), named)
        if not is_json:
            words = ("subset", str(folder / name), "--fraction", "0.5", "--output", world.out)
            yield Case(f"subset: {name}", words, names)


_GOOD = {"question_id": 0, "image": "square.png", "text": "What is this?"}
# Question files of LLaVA's modules: content, what is said of it, and whether other questions are still asked.
QUESTIONS: dict[str, tuple[bytes, tuple[str, ...], bool]] = {
    "q-empty.jsonl": (b"", ("q-empty.jsonl",), False),
    "q-no-json.jsonl": (b"{'question_id': 0}\n", ("q-no-json.jsonl", "1"), False),
    "q-no-utf8.jsonl": (b'{"question_id": 0, "text": "\xff"}\n', ("q-no-utf8.jsonl",), False),
    "q-list.jsonl": (b"[1]\n", ("q-list.jsonl", "1"), False),
    "q-no-image.jsonl": (json.dumps({"question_id": 0, "text": "hi"}).encode(), ("q-no-image.jsonl", "image"), False),
    "q-text-number.jsonl": (json.dumps(_GOOD | {"text": 5}).encode(), ("q-text-number.jsonl", "text"), False),
    "q-surrogate.jsonl": (json.dumps(_GOOD | {"text": "What \ud800?"}).encode(), ("0",), True),
    "q-placeholder.jsonl": (json.dumps(_GOOD | {"text": "What is <image> this?"}).encode(), ("0",), True),
    "q-outside.jsonl": (json.dumps(_GOOD | {"image": "../train_tiny.json"}).encode(), ("train_tiny.json",), True),
}


def of_questions(world: World) -> Iterator[Case]:
    """Broken question files, at LLaVA's modules that ask a model."""
    folder = world.root / "asked"
    folder.mkdir()
    for name, (data, names, goes_on) in QUESTIONS.items():
        (folder / name).write_bytes(data)
        for module in ("model_vqa", "model_vqa_loader"):
            answers = str(folder / f"{module}-{name}")
            words = ("--question-file", str(folder / name), "--image-folder", str(world.data / "images"))
            words += ("--answers-file", answers, "--max-new-tokens", "2") if module.endswith("loader") else (
                "--answers-file", answers,
            )  # fmt: skip
            status = (0, 1) if goes_on else (1, 2)
            yield Case(f"{module}: {name}", modules(world, module, *words), names, status=status, writes=goes_on)


ANSWERS: dict[str, bytes] = {
    "a-empty.jsonl": b"",
    "a-no-json.jsonl": b"{'question_id': 1}\n",
    "a-no-utf8.jsonl": b'{"question_id": 1, "text": "\xff"}\n',
    "a-text-null.jsonl": b'{"question_id": 1, "text": null}\n',
    "a-list.jsonl": b"[1]\n",
    "a-no-id.jsonl": b'{"text": "yes"}\n',
}


def of_answers(world: World) -> Iterator[Case]:
    """Broken answer files, at LLaVA's modules that score them."""
    folder = world.root / "scored"
    folder.mkdir()
    (folder / "questions.jsonl").write_text(json.dumps({"question_id": 1, "category": "random", "text": "Is it?"}))
    (folder / "coco_pope_random.json").write_text(json.dumps({"question_id": 1, "text": "Is it?", "label": "yes"}))
    row = {"image_id": "a", "question_id": 1, "question": "what?", "answers": ["yes"] * 10}
    (folder / "TextVQA.json").write_text(json.dumps({"data": [row]}))
    for name, data in ANSWERS.items():
        file = folder / name
        file.write_bytes(data)
        pope = ("--annotation-dir", str(folder), "--question-file", str(folder / "questions.jsonl"))
        yield Case(f"eval_pope: {name}", ("llava.eval.eval_pope", *pope, "--result-file", str(file)), (name,))
        text = ("--annotation-file", str(folder / "TextVQA.json"), "--result-file", str(file))
        yield Case(f"eval_textvqa: {name}", ("llava.eval.eval_textvqa", *text), (name,))


# Flags that no run can follow, at each command that has them.
FLAGS: dict[str, tuple[tuple[str, str], ...]] = {
    "ask": (
        ("--temperature", "nan"), ("--temperature", "-1"), ("--top-p", "2"), ("--num-beams", "0"),
        ("--max-new-tokens", "0"), ("--max-new-tokens", "-1"), ("--device", "abacus"), ("--compression", "magic:5"),
        ("--compression", "visionzip:-1"), ("--compression", "visionzip:9999"), ("--compression", "visionzip:5,x=1"),
        ("--conv-mode", "no_such"), ("--attn-implementation", "no_such"), ("--plugin", "nowhere.py"),
        ("--model-base", "nowhere"),
    ),
    "chat": (("--temperature", "nan"), ("--max-new-tokens", "0"), ("--compression", "visionzip:5,x=1")),
    "eval": (
        ("--limit", "-1"), ("--limit", "0"), ("--batch-size", "0"), ("--batch-size", "many"), ("--tasks", "no_such"),
        ("--compression", "magic:5"), ("--latency-repeats", "-1"), ("--image-workers", "-1"), ("--num-chunks", "0"),
        ("--data-root", "nowhere"), ("--conv-mode", "no_such"),
    ),
    "train": (
        ("--learning-rate", "nan"), ("--max-steps", "0"), ("--per-device-train-batch-size", "0"),
        ("--data-fraction", "-1"), ("--compression", "visionzip:9999"), ("--version", "no_such"),
        ("--stage", "no_such"), ("--image-folder", "nowhere"), ("--recipe", "no_such"),
    ),
}  # fmt: skip


def of_flags(world: World) -> Iterator[Case]:
    """Wrong values of flags."""
    doors = {"ask": ask, "chat": chat, "eval": evaluate, "train": tune}
    for door, flags in FLAGS.items():
        for flag, value in flags:
            words = (*doors[door](world), flag, value)
            status = (0,) if flag == "--model-base" else (1, 2)  # a whole model needs none, and says so
            named = value.split(":")[0]
            yield Case(f"{door}: {flag} {value}", words, (named,), keys="What?\n\n", status=status)
    file = world.root / "a_file"
    file.write_text("here already")
    for door in ("eval", "train", "export"):
        words = export(world, world.model) if door == "export" else doors[door](world)
        yield Case(f"{door}: --output-dir FILE", (*words, "--output-dir", str(file)), ("a_file",))
        yield Case(f"{door}: --output-dir NUL", (*words, "--output-dir", "a\0b"), ())
    for url in ("ftp://127.0.0.1/a.png", "http://[bad/a.png", "http://127.0.0.1:9/a.png", "file:///etc/passwd"):
        yield Case(f"ask: {url}", ask(world, image=url), ("a.png" if "a.png" in url else "passwd",))
    secret = "http://me:hunter2@127.0.0.1:9/a.png"
    yield Case(f"ask: {secret}", ask(world, image=secret), ("127.0.0.1:9",))


RECIPES: dict[str, tuple[str, tuple[str, ...]]] = {
    "no-yaml.yaml": ("a: [", ("no-yaml.yaml",)),
    "list.yaml": ("- a", ("list.yaml",)),
    "misspelt.yaml": ("learning_rat: 1e-3", ("misspelt.yaml", "learning_rat")),
    "itself.yaml": ("extends: itself.yaml", ("itself.yaml",)),
    "text.yaml": ("max_steps: many", ("max_steps", "many")),
    "nested.yaml": ("learning_rate: {a: 1}", ("nested.yaml", "learning_rate")),
}


def of_recipes(world: World) -> Iterator[Case]:
    """Broken recipes."""
    folder = world.root / "recipes"
    folder.mkdir()
    for name, (text, names) in RECIPES.items():
        (folder / name).write_text(text)
        words = [word for word in tune(world) if word not in ("--max-steps", "1")]
        yield Case(f"train: {name}", (*words, "--recipe", str(folder / name)), names)


# JSON that no reader can use.
UNREADABLE: dict[str, bytes] = {
    "empty": b"",
    "no-json": b"{'a': 1}",
    "no-utf8": b'{"a": "\xff"}',
    "deep": b"[" * 100_000,
    "digits": b"1" * 10_000,
    "number": b"5",
    "text": b'"rows"',
    "list": b"[1]",
}


def of_json_files(world: World) -> Iterator[Case]:
    """JSON files that are none, at the other commands that read one."""
    for name, data in UNREADABLE.items():
        folder = world.root / "json" / name
        folder.mkdir(parents=True)
        (folder / "eval_vqa.json").write_bytes(data)
        yield Case(f"eval: benchmark {name}", evaluate(world, None, folder), ("eval_vqa.json",))
        (folder / "results.json").write_bytes(data)
        yield Case(f"report: {name}", ("report", str(folder), "--no-picture"), ("results.json",))
        card = ("card", str(world.model), "--results", str(folder / "results.json"))
        yield Case(f"card: results {name}", card, ("results.json",))
        judged = ("judge", str(folder), "--judge-url", "http://127.0.0.1:9/v1", "--judge-model", "m")
        yield Case(f"judge: {name}", judged, ("results.json",))
        for file in ("export.json", "a.manifest.json"):
            (folder / file).write_bytes(data)
        yield Case(f"refresh: {name}", ("refresh", str(folder)), ("export.json",))
        manifest = ("--from-manifest", str(folder / "a.manifest.json"), "--output", world.out)
        yield Case(
            f"subset: manifest {name}", ("subset", str(world.data / "train_tiny.json"), *manifest), ("manifest",)
        )
        (folder / "conversations.json").write_bytes(data)
        words = ("convert", str(folder / "conversations.json"), "--output", world.out)
        yield Case(f"convert: {name}", words, ("conversations.json",))
        science = ("--question-file", str(folder / "conversations.json"), "--image-folder", str(world.data))
        words = modules(world, "model_vqa_science", *science, "--answers-file", f"{world.out}.jsonl")
        yield Case(f"model_vqa_science: {name}", words, ("conversations.json",))


def of_releases(world: World) -> Iterator[Case]:
    """Broken checkpoints, at the commands that publish one."""
    for name in ("no-config", "config-deep", "config-list", "weights-cut", "weights-pointer", "pickle", "code"):
        folder = world.root / "models" / name
        names = checkpoints.BROKEN[name][1]
        push = ("push", str(folder), "--repo", "me/model", "--dry-run")
        yield Case(f"push: {name}", push)
        yield Case(f"card: {name}", ("card", str(folder), "--output-dir", world.out))
        if name == "code":
            continue
        for to in ("llava", "projector"):
            words = ("export", str(folder), "--to", to, "--output-dir", world.out)
            yield Case(f"export --to {to}: {name}", words, names)
        bench = ("bench", "--model-path", str(folder), "--device", "cpu", "--image-file", str(world.picture))
        yield Case(f"bench: {name}", bench, names)


def all_cases(world: World) -> list[Case]:
    """The table."""
    groups = (of_checkpoints, of_images, of_training_data, of_questions, of_answers, of_flags, of_recipes)
    groups += (of_json_files, of_releases)
    cases = [case for group in groups for case in group(world)]
    folders = [str(world.root / "out" / str(number)) for number in range(len(cases))]
    return [
        replace(case, words=tuple(word.replace(OUT, folder) for word in case.words))
        for case, folder in zip(cases, folders, strict=True)
    ]
