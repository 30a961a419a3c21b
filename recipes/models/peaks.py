"""Published peak speeds of GPUs, the denominators of MFU."""

from __future__ import annotations

import re

# Dense TFLOP/s of one GPU at its boost clock: bfloat16 and FP8 tensor cores, and float32 without tensor cores (torch
# uses none for float32 unless told to). NVIDIA's data sheets of the H100 (SXM, PCIe, NVL), H200, A100, L40S, L4 and the
# Grace Hopper and HGX B200 platforms; where they print figures with sparsity alone, half of them. Keys match torch's
# whole device name: a MIG slice, whose name has more in it, is another device.
_PEAKS: dict[str, dict[str, float]] = {
    r"NVIDIA H100 80GB HBM3|NVIDIA H100 SXM5.*": {"bfloat16": 989.4, "fp8": 1978.9, "float32": 66.9},
    r"NVIDIA H100 PCIe|NVIDIA H100 80GB HBM2e": {"bfloat16": 756.0, "fp8": 1513.0, "float32": 51.2},
    r"NVIDIA H100 NVL|NVIDIA H200 NVL": {"bfloat16": 835.5, "fp8": 1670.5, "float32": 60.0},
    r"NVIDIA H200|NVIDIA GH200 (480GB|144G HBM3e)": {"bfloat16": 989.4, "fp8": 1978.9, "float32": 66.9},
    r"(NVIDIA )?A100[- ](SXM4-(40|80)GB|PCIE-40GB|80GB PCIe)": {"bfloat16": 312.0, "float32": 19.5},
    r"NVIDIA L40S": {"bfloat16": 362.05, "fp8": 733.0, "float32": 91.6},
    r"NVIDIA L4": {"bfloat16": 121.0, "fp8": 242.5, "float32": 30.3},
    r"NVIDIA B200": {"bfloat16": 2250.0, "fp8": 4500.0, "float32": 75.0},
}


def peak_tflops(device: str, number_format: str) -> float | None:
    """Dense TFLOP/s of a device, or None where none is published here.

    Args:
        device: as `torch.cuda.get_device_name` gives it.
        number_format: of the matrix products: float32, bfloat16 or fp8.
    """
    for names, peaks in _PEAKS.items():
        if re.fullmatch(names, device):
            return peaks.get(number_format)
    return None
