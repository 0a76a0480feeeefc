"""What GPUs do at most, from their makers' data sheets, and the least time that work can take on one.

TFLOP/s are dense, in fp16 and bf16 with fp32 accumulation; a data sheet's figure "with sparsity" is twice that. TB/s
are of the device's own memory, 10**12 bytes. Where a name stands for several variants, the fastest of them counts, so
that a least time is one for all.
"""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class DevicePeak:
    """A GPU's data sheet.

    Attributes:
        name: A word of what `torch.cuda.get_device_name` says.
        tflops: TFLOP/s in half precision.
        terabytes: TB/s of its memory.
        sheet: The document.
    """

    name: str
    tflops: float
    terabytes: float
    sheet: str

    def least_ms(self, operations: float, read: float) -> float:
        """The least milliseconds for work: what it computes or what it must read, whichever takes longer.

        Args:
            operations: Floating-point operations, two a multiply-accumulate.
            read: Bytes.
        """
        return 1000 * max(operations / (self.tflops * 1e12), read / (self.terabytes * 1e12))

    def is_bound_by_memory(self, operations: float, read: float) -> bool:
        """Whether reading takes the longer of the two."""
        return read / self.terabytes > operations / self.tflops


def _data_sheet(model: str) -> str:
    return f"NVIDIA {model} data sheet"


# Of several that fit a name, the first counts.
DEVICE_PEAKS = (
    DevicePeak("B200", 2250.0, 8.0, _data_sheet("DGX B200")),
    DevicePeak("GH200", 989.4, 4.9, _data_sheet("GH200 Grace Hopper Superchip")),
    DevicePeak("H200", 989.4, 4.8, _data_sheet("H200 Tensor Core GPU")),
    DevicePeak("H100 PCIe", 756.0, 2.0, _data_sheet("H100 Tensor Core GPU")),
    DevicePeak("H100 NVL", 835.5, 3.9, _data_sheet("H100 Tensor Core GPU")),
    DevicePeak("H100", 989.4, 3.35, _data_sheet("H100 Tensor Core GPU")),
    DevicePeak("H800", 989.4, 3.35, "as the H100, of which it is the export version"),
    DevicePeak("A100-PCIE-40GB", 312.0, 1.555, _data_sheet("A100 Tensor Core GPU")),
    DevicePeak("A100-SXM4-40GB", 312.0, 1.555, _data_sheet("A100 Tensor Core GPU")),
    DevicePeak("A100 80GB PCIe", 312.0, 1.935, _data_sheet("A100 Tensor Core GPU")),
    DevicePeak("A100", 312.0, 2.039, _data_sheet("A100 Tensor Core GPU")),
    DevicePeak("A800 80GB PCIe", 312.0, 1.935, "as the A100, of which it is the export version"),
    DevicePeak("A800", 312.0, 2.039, "as the A100, of which it is the export version"),
    DevicePeak("L40S", 362.05, 0.864, _data_sheet("L40S GPU")),
    DevicePeak("L40", 181.05, 0.864, _data_sheet("L40 GPU")),
    DevicePeak("L4", 121.0, 0.3, _data_sheet("L4 Tensor Core GPU")),
    DevicePeak("A6000", 154.8, 0.768, _data_sheet("RTX A6000")),
    DevicePeak("A40", 149.7, 0.696, _data_sheet("A40")),
    DevicePeak("A30", 165.0, 0.933, _data_sheet("A30 Tensor Core GPU")),
    DevicePeak("A10", 125.0, 0.6, _data_sheet("A10 Tensor Core GPU")),
    DevicePeak("RTX 4090", 165.2, 1.008, "NVIDIA Ada GPU architecture white paper"),
    DevicePeak("RTX 3090", 71.0, 0.936, "NVIDIA Ampere GA102 GPU architecture white paper"),
    DevicePeak("V100", 125.0, 0.9, _data_sheet("V100 Tensor Core GPU")),
    DevicePeak("T4", 65.0, 0.32, _data_sheet("T4 Tensor Core GPU")),
)


def device_peak(device_name: str) -> DevicePeak | None:
    """The data sheet of a GPU; None where it is not known, as of laptops' chips, which share names with others.

    Args:
        device_name: What `torch.cuda.get_device_name` says, or a name of `DEVICE_PEAKS`.
    """
    if "Laptop" in device_name:
        return None
    return next((peak for peak in DEVICE_PEAKS if re.search(rf"\b{peak.name}\b", device_name)), None)


def peak_tflops(device_name: str) -> float | None:
    """TFLOP/s of a GPU in half precision; None where it is not known."""
    peak = device_peak(device_name)
    return None if peak is None else peak.tflops
