"""Loads a released checkpoint in every way it claims to load: `python -m llava.hub.verify REPO_OR_DIR`.

    files          every file that the export wrote has the hash it was written with, and no other weights lie there
    llava          this package loads it, with the compression of its config switched on by itself
    transformers   plain transformers and AutoProcessor load it, with no code of this package in the way; where its
                   processor needs a package that is not installed, this package's prepares the picture
    answers        each gives the answers of the card's sample question, if the card has one

Each model is freed before the next is loaded: memory for one is enough.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from llava.command_line import CommandParser, add_shared, plain_errors

_MARKS = {True: "ok", False: "FAILED", None: "skipped"}


@dataclass(frozen=True)
class Check:
    """One thing that was tried.

    Attributes:
        name: Of the check.
        ok: Whether it held; None if there was nothing to check.
        detail: What was found.
    """

    name: str
    ok: bool | None
    detail: str


@dataclass(frozen=True)
class VerifyReport:
    """All checks of a folder."""

    folder: Path
    checks: tuple[Check, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing failed."""
        return all(check.ok is not False for check in self.checks)

    def __str__(self) -> str:
        width = max(len(check.name) for check in self.checks)
        rows = [f"{check.name:{width}}  {_MARKS[check.ok]:8}{check.detail}" for check in self.checks]
        failed = sum(check.ok is False for check in self.checks)
        return "\n".join([*rows, f"{self.folder}: {f'{failed} checks FAILED' if failed else 'all checks passed'}"])


def verify(
    folder_or_repo: str | Path,
    *,
    model_base: str | Path | None = None,
    device: str = "cpu",
    dtype: str | None = None,
) -> VerifyReport:
    """Tries everything that a released folder claims.

    Args:
        folder_or_repo: A folder, or a repository on the Hub.
        model_base: What a projector or adapters go on; by default what they name.
        device: Where the models run.
        dtype: Of the models; by default that of the card's sample answers, else the checkpoint's own.

    Returns:
        What held and what did not; nothing is raised for a check that fails.

    Raises:
        CheckpointError: There is no such folder or repository.
        ValueError: The device cannot be used.
    """
    from llava.model.checkpoints.files import resolve_checkpoint

    folder = (
        resolve_release(folder_or_repo) if not Path(folder_or_repo).is_dir() else resolve_checkpoint(folder_or_repo)
    )
    subject = _Subject(folder, model_base, device, dtype)
    checks = [_checked("files", subject.check_files), _checked("card", subject.check_card)]
    checks += subject.check_this_package()
    if subject.is_plain:
        checks += subject.check_plain_transformers()
    return VerifyReport(folder, tuple(checks))


def resolve_release(repo: str | Path) -> Path:
    """Downloads a whole repository: the card and its picture too, which loading alone does not need.

    Raises:
        CheckpointError: It cannot be had.
    """
    from huggingface_hub import snapshot_download

    from llava.model.checkpoints.files import CheckpointError

    try:
        return Path(snapshot_download(str(repo)))
    except Exception as error:  # the Hub's own errors, those of its HTTP library, and the disk's
        raise CheckpointError(f"{repo}: there is no such folder, and the Hub did not give it: {error}") from error


class _Subject:
    """A folder under test, with what its files say of it."""

    def __init__(self, folder: Path, model_base: str | Path | None, device: str, dtype: str | None) -> None:
        from llava.hub.json_file import optional_json
        from llava.kinds.families import FAMILIES
        from llava.model.checkpoints.config_adapter import is_transformers_format
        from llava.model.checkpoints.files import weight_files

        self.folder, self.model_base, self.device = folder, model_base, device
        self.sample: Any = None
        self.asked_dtype = dtype
        self.config = optional_json(folder, "config.json")
        has_processor = any((folder / name).is_file() for name in ("processor_config.json", "preprocessor_config.json"))
        is_ours = is_transformers_format(self.config)  # or a family's that transformers has no class of
        is_known = is_ours and FAMILIES.get(self.config["model_type"]).transformers_model is not None
        self.is_plain = is_known and bool(weight_files(folder)) and has_processor

    @property
    def dtype(self) -> str:
        """Of the models: as asked for, as the sample was made with, or as the weights are."""
        return self.asked_dtype or (self.sample.dtype if self.sample is not None else "auto")

    def check_files(self) -> tuple[bool | None, str]:
        from llava.hub.manifest import damaged_files, read_manifest
        from llava.hub.publish.release_files import first_not_finite, is_weights
        from llava.hub.staging import MANIFEST

        tensors = {file.name: first_not_finite(file) for file in sorted(self.folder.glob("*.safetensors"))}
        if broken := [f"{file}: {name} holds numbers that are not finite" for file, name in tensors.items() if name]:
            return False, "; ".join(broken)
        if not (self.folder / MANIFEST).is_file():
            return None, f"there is no {MANIFEST}, so no hashes"
        problems = damaged_files(self.folder)
        listed = read_manifest(self.folder)["files"]
        unlisted = sorted(file.name for file in self.folder.iterdir() if file.name not in listed)
        problems += [f"{name} is not of this export, and may be loaded" for name in unlisted if is_weights(name)]
        count = len(listed)
        return not problems, "; ".join(problems) or f"{count} files as they were written"

    def check_card(self) -> tuple[bool | None, str]:
        from llava.hub.card.sample import read_sample

        self.sample = read_sample(self.folder)
        if self.sample is None:
            return None, "README.md has no sample question"
        return True, f"sample question: {self.sample.question}"

    def check_this_package(self) -> list[Check]:
        from llava.inference import GenerationOptions, Inference
        from llava.model.configuration import as_compression

        stored = self.config.get("compression")
        made: list[Any] = []

        def load() -> tuple[bool, str]:
            mode = None if self.sample is None else self.sample.conv_mode
            options: dict[str, Any] = {"device": self.device, "torch_dtype": self.dtype}
            made.append(Inference.load(self.folder, self.model_base, conv_mode=mode, **options))
            found, wanted = made[0].model.compression, as_compression(stored)
            return (
                found == wanted,
                f"{type(made[0].model).__name__}, compression {found or 'none'} switched on by itself",
            )

        def answer(compression: Any) -> tuple[bool | None, str]:
            made[0].model.set_compression(compression)
            options = GenerationOptions(max_new_tokens=self.sample.max_new_tokens)
            picture = self.folder / self.sample.image
            return self._judged(made[0].ask_one(self.sample.question, picture, options=options).text, compression)

        checks = [_checked("llava", load)]
        if made and self.sample is not None:
            for compression in dict.fromkeys((made[0].model.compression, None)):
                checks.append(_checked(f"llava answers, {compression or 'all tokens'}", partial(answer, compression)))
        made.clear()
        gc.collect()
        return checks

    def check_plain_transformers(self) -> list[Check]:
        made: list[Any] = []

        def load() -> tuple[bool | None, str]:
            from llava.plain_loading import auto_image_text_model, auto_processor

            model, loading = auto_image_text_model(self.folder, dtype=self.dtype, output_loading_info=True)
            kinds = ("missing_keys", "unexpected_keys", "mismatched_keys")
            wrong = [f"{len(loading[kind])} {kind}" for kind in kinds if loading.get(kind)]
            found: bool | None = True
            try:
                processor = auto_processor(self.folder)
                named = type(processor).__name__
            except ImportError as error:  # torchvision, where a processor makes videos too
                from llava.model.auto import AutoLlavaProcessor

                processor = AutoLlavaProcessor.from_pretrained(self.folder, compression=None)
                reason = str(error).strip().partition(". ")[0]
                found, named = None, f"this package's processor, for transformers' own was not tried: {reason}"
            made.extend((processor, model.eval().to(self.device)))
            return found if not wrong else False, ", ".join(wrong) or f"{type(model).__name__} and {named}"

        def answer() -> tuple[bool | None, str]:
            return self._judged(plain_answer(made[0], made[1], self.sample, self.folder), None)

        checks = [_checked("transformers", load)]
        if made and self.sample is not None:
            checks.append(_checked("transformers answers, all tokens", answer))
        return checks

    def _judged(self, answer: str, compression: Any) -> tuple[bool | None, str]:
        wanted = self.sample.answers.get(str(compression or "none"))
        if wanted is None:
            return None, f"{answer!r}; the card has no answer to compare with"
        return answer == wanted, repr(answer) if answer == wanted else f"{answer!r}; the card says {wanted!r}"


def plain_answer(processor: Any, model: Any, sample: Any, folder: Path) -> str:
    """What plain transformers answers to the sample question, greedily.

    Args:
        processor: From `AutoProcessor`.
        model: transformers' own.
        sample: From the card.
        folder: Where its picture lies.
    """
    import torch

    from llava.images.processing import load_image

    content = [{"type": "image"}, {"type": "text", "text": sample.question}]
    prompt = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    picture = load_image(folder / sample.image)
    inputs = processor(images=picture, text=prompt, return_tensors="pt").to(model.device, model.dtype)
    with torch.inference_mode():
        output = model.generate(**inputs, do_sample=False, max_new_tokens=sample.max_new_tokens)
    new = output[0, inputs["input_ids"].shape[1] :]
    return str(processor.tokenizer.decode(new, skip_special_tokens=True)).strip()


def _checked(name: str, check: Callable[[], tuple[bool | None, str]]) -> Check:
    """Runs a check; an error is a failed one, and the others still run."""
    try:
        return Check(name, *check())
    except Exception as error:  # whatever a user of the checkpoint would meet is what this is for
        return Check(name, False, f"{type(error).__name__}: {str(error).strip() or 'no message'}")


def main(argv: Sequence[str] | None = None) -> None:
    """The command line; status 1 if a check failed."""
    parser = CommandParser("llava.hub.verify", "Loads a checkpoint in every way it claims to load.")
    parser.add_argument("checkpoint", metavar="REPO_OR_DIR", help="folder, or repository on the Hub")
    add_shared(parser, "--model-base")
    add_shared(parser, "--device", default="cpu", help="where the models run (default cpu)")
    add_shared(parser, "--dtype", help="of the models; default: as the card's answers were made")
    arguments = parser.parse_args(argv)
    with plain_errors():
        report = verify(
            arguments.checkpoint,
            model_base=arguments.model_base,
            device=arguments.device,
            dtype=arguments.dtype,
        )
    print(report)
    if not report.ok:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
