"""LoRA adapters in training: made in place by peft, and written in peft's own format."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor, nn

from llava.model.checkpoints.lora import ADAPTER_CONFIG, ADAPTER_FILE
from llava.model.quantization import import_bitsandbytes

_NAME = "default"  # peft leaves it out of its files
_LLM = "model.language_model."


def add_adapters(model: Any, *, r: int, alpha: int, dropout: float = 0.0, bias: str = "none") -> None:
    """Puts LoRA adapters on every linear layer of the language model, as LLaVA does; its head is none of them.

    The model keeps its class and its modules their names; an adapted layer gets `base_layer`, `lora_A`, `lora_B`.

    Args:
        model: One of this package's models, quantised or not.
        r: Rank.
        alpha: Numerator of the scale, `alpha / r`.
        dropout: On the adapters' inputs.
        bias: Which biases are trained besides: `none`, `lora_only` those of the adapted layers, `all` those of the
            language model.
    """
    import_bitsandbytes()  # which peft would do, less quietly
    from peft import LoraConfig

    linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear) and name.startswith(_LLM)]
    names = sorted({name.rpartition(".")[2] for name in linear})
    config = LoraConfig(
        r=r,
        lora_alpha=alpha,
        lora_dropout=dropout,
        bias=bias,  # type: ignore[arg-type]
        target_modules=rf".*language_model\..*\.({'|'.join(names)})",  # the names alone are the vision tower's too
        task_type="CAUSAL_LM",
    )
    model.add_adapter(config, adapter_name=_NAME)


def adapter_names(model: Any) -> set[str]:
    """The names of the parameters that adapters have, and of the biases that are trained with them."""
    bias = _config(model).bias
    adapted = {name.partition(".lora_")[0] for name, _ in model.named_parameters() if ".lora_" in name}

    def belongs(name: str) -> bool:
        if ".lora_" in name or bias == "none":
            return ".lora_" in name
        layer = name.removesuffix(".bias").removesuffix(".base_layer")
        return name.startswith(_LLM) and name.endswith(".bias") and (bias == "all" or layer in adapted)

    return {name for name, _ in model.named_parameters() if belongs(name)}


def write_adapter_config(model: Any, folder: Path, base_model: str | Path) -> None:
    """Writes `adapter_config.json` as peft does."""
    entries = {**_config(model).to_dict(), "base_model_name_or_path": str(base_model), "inference_mode": True}
    plain = {name: sorted(value) if isinstance(value, set) else value for name, value in entries.items()}
    (folder / ADAPTER_CONFIG).write_text(json.dumps(plain, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def save_adapter(model: Any, folder: Path, state: Mapping[str, Tensor], base_model: str | Path) -> None:
    """Writes the adapters for `load_pretrained_model` and for `peft.PeftModel.from_pretrained`.

    Args:
        model: With adapters.
        folder: Must exist.
        state: Tensors by the module's names, those of the adapters among them.
        base_model: What they were trained on.
    """
    plain = {
        "base_model.model." + name.replace(f".{_NAME}.", "."): state[name].detach().cpu().contiguous()
        for name in sorted(adapter_names(model))
    }
    save_file(plain, folder / ADAPTER_FILE, metadata={"format": "pt"})
    write_adapter_config(model, folder, base_model)


def _config(model: Any) -> Any:
    return model.peft_config[_NAME]
