"""How a released checkpoint is loaded: by plain transformers, by this package, by the original LLaVA."""

from __future__ import annotations

from llava.hub.run_facts import RunFacts
from llava.kinds.families import FAMILIES


def usage_section(run: RunFacts, repo: str) -> str:
    """Three ways; where the format does not allow one, the command that makes the format that does."""
    return "\n\n".join(["## Use", _this_package(run, repo), _transformers(run, repo), _original(run, repo)])


def _this_package(run: RunFacts, repo: str) -> str:
    budget = f", compressed to `{run.compression}` by itself" if run.compression is not None else ""
    base = ""
    if run.format in ("projector", "adapter"):
        base = "\n\nThe base model is the one that the config names; `model_base=` names another place of it."
    return f"""With this package{budget}:

```python
from llava import load_pretrained_model

tokenizer, model, image_processor, context_len = load_pretrained_model("{repo}")
```{base}"""


def _transformers(run: RunFacts, repo: str) -> str:
    if run.format != "hf":
        return f"""With plain transformers, after

```bash
python -m llava.hub.export {repo} --to hf --output {_folder(repo)}-hf
```"""
    name = FAMILIES.get(str(run.config.get("model_type"))).transformers_model
    warning = ""
    if run.compression is not None:
        warning = " It ignores the compression and takes all visual tokens" + (
            ", which is not what it was trained with." if run.stage is not None else "."
        )
    return f"""With plain transformers and no code of this package.{warning}

```python
from transformers import AutoProcessor, {name}

model = {name}.from_pretrained("{repo}")
processor = AutoProcessor.from_pretrained("{repo}")
```"""


def _original(run: RunFacts, repo: str) -> str:
    if run.format != "llava":
        return f"""With the original LLaVA, after

```bash
python -m llava.hub.export {repo} --to llava --output {_folder(repo)}-llava
```

which it loads with `--model-path`; it goes by the folder's name, which must have `llava` in it."""
    return f"""With the original LLaVA, uncompressed:

```bash
python -m llava.serve.cli --model-path {repo} --image-file image.png
```"""


_LLAVA = "LlavaForConditionalGeneration"


def _folder(repo: str) -> str:
    return repo.rpartition("/")[2]
