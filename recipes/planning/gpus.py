"""GPUs that `plan` knows: memory, bandwidths and links of a usual node, and what share of the peak FLOP/s counts."""

from __future__ import annotations

from crossthink.errors import ConfigError
from recipes.models.peaks import peak_tflops
from recipes.planning.interface import Gpu

GB, GIB = 1e9, 2**30

# Memory: what torch reports as the device's total, in whole GiB; the driver has taken its part already. Bandwidths:
# NVIDIA's data sheets of the A100 80GB SXM, H100 SXM, H200 SXM and HGX B200, which print NVLink in both directions
# together (600, 900, 900 and 1800 GB/s): half of it here. Network: one adapter a GPU, 200 Gb/s in a DGX A100 and
# 400 Gb/s in a DGX H100, H200 and B200 (NVIDIA's DGX user guides).
GPUS: dict[str, Gpu] = {
    gpu.name: gpu
    for gpu in (
        Gpu("a100", "NVIDIA A100-SXM4-80GB", 79 * GIB, 2.039e12, 300e9, 25e9),
        Gpu("h100", "NVIDIA H100 80GB HBM3", 79 * GIB, 3.35e12, 450e9, 50e9),
        Gpu("h200", "NVIDIA H200", 139 * GIB, 4.8e12, 450e9, 50e9),
        Gpu("b200", "NVIDIA B200", 178 * GIB, 8.0e12, 900e9, 50e9),
    )
}
CPU = "cpu"

HOST_LINK = {"a100": 32e9, "h100": 64e9, "h200": 64e9, "b200": 64e9}
"""Bytes/s between a GPU and host memory, one direction: PCIe 4.0 and 5.0 × 16, as those data sheets state."""


def gpu_of(name: str) -> Gpu | None:
    """The GPU that `gpu=` names; None for CPUs.

    Raises:
        ConfigError: an unknown name; lists those that are known.
    """
    if name == CPU:
        return None
    if name not in GPUS:
        raise ConfigError(f"gpu={name} is not allowed. Allowed: {', '.join(GPUS)}, {CPU}.")
    return GPUS[name]


def host_seconds(gpu: Gpu, size: float, share: float) -> float:
    """How long bytes take from a GPU to host memory, or back, at a share of the link's bandwidth."""
    return size / (HOST_LINK[gpu.name] * share)


def peak_flops(gpu: Gpu, number_format: str) -> float:
    """Dense FLOP/s of matrix products.

    Args:
        gpu: one of `GPUS`.
        number_format: float32, bfloat16 or fp8.

    Raises:
        ConfigError: the GPU has no products in this format.
    """
    found = peak_tflops(gpu.device, number_format)
    if found is None:
        raise ConfigError(
            f"gpu={gpu.name} has no {number_format} matrix products. Set actor.fp8=off and "
            "rollout.trtllm.fp8_weights=false, or take another GPU."
        )
    return found * 1e12
