"""A tensor as the text in which engines' servers take it.

`npy` is NumPy's own format. `torch` is what `torch.save` writes: an archive with a pickle in it. This package keeps no
pickles in files, and reads none; here it is the format that the engine has chosen for its wire, which it reads with
`weights_only=True`. A tensor's archive holds nothing that this refuses.
"""

from __future__ import annotations

import base64
import io
from typing import Literal, TypeAlias, get_args

import numpy as np
import torch
from torch import Tensor

WireFormat: TypeAlias = Literal["npy", "torch"]
WIRE_FORMATS: tuple[WireFormat, ...] = get_args(WireFormat)


def to_base64(tensor: Tensor, form: WireFormat) -> str:
    """A tensor as text.

    Args:
        tensor: On the CPU.
        form: See the module.

    Raises:
        ValueError: The form is unknown, or has no such type.
    """
    buffer = io.BytesIO()
    if form == "npy":
        if tensor.dtype == torch.bfloat16:
            raise ValueError("npy has no bfloat16: take the wire format torch, or float16 or float32")
        np.save(buffer, tensor.numpy(), allow_pickle=False)
    elif form == "torch":
        torch.save(tensor.clone(), buffer)  # of a view all that it is a view of would be written
    else:
        raise ValueError(f"wire format {form!r}: choose one of {', '.join(WIRE_FORMATS)}")
    return base64.b64encode(buffer.getvalue()).decode("ascii")
