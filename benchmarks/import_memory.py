"""Peak memory of each rank while a 64-layer checkpoint is imported and exported, against its share and one tensor.

    .venv/bin/python benchmarks/import_memory.py [FOLDER] [layers=64] [scale=8] [tensor=2] [pipeline=2] [shard_mb=64]

Writes a checkpoint of Qwen2.5-32B's shape in bfloat16, with its layers and names, and hidden size, MLP columns and
vocabulary divided by `scale`; then starts tensor × pipeline ranks, each a process of its own, that import it into
bfloat16 parameters and export them again.

Measured is the high-water mark of the resident set (VmHWM, reset before each phase), which counts mapped pages of files
too, above what was resident before the phase. The import must stay within the rank's share of the parameters plus the
largest tensor, the export within the largest tensor, each plus `ALLOWANCE_MB`. Exit code 1 where one does not.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, Qwen2Config

from crossthink.procs import free_port
from recipes.actors.mcore.export_weights import ExportOptions, write_hf_weights
from recipes.actors.mcore.import_weights import SafetensorsSource
from recipes.actors.mcore.layout import WeightLayout
from recipes.actors.mcore.mesh import Mesh, join_mesh, leave_mesh
from recipes.models.weights import SafetensorsFolder, SafetensorsWriter, TensorPlan, file_name, plan_files, write_index

MB = 1e6
# Pages of libraries that are first touched in a phase, gloo's buffers, and what the allocator keeps of small blocks.
ALLOWANCE_MB = 8.0
DEFAULTS = {"layers": 64, "scale": 8, "tensor": 2, "pipeline": 2, "shard_mb": 64}
LIMIT_S = 600


def main() -> int:
    """Make the checkpoint, run the ranks, print the table."""
    words = sys.argv[1:]
    sizes = DEFAULTS | {key: int(value) for key, _, value in (w.partition("=") for w in words if "=" in w)}
    folders = [word for word in words if "=" not in word]
    with contextlib.ExitStack() as stack:
        root = Path(folders[0]) if folders else Path(stack.enter_context(tempfile.TemporaryDirectory()))
        make_checkpoint(root / "model", sizes)
        (root / "export").mkdir()
        ranks = run_ranks(root, sizes)
        same = exported_alike(root)
    return report(ranks, same, sizes)


def make_checkpoint(folder: Path, sizes: dict[str, int]) -> None:
    """A sharded checkpoint of random bfloat16 weights, written one tensor at a time."""
    scale = sizes["scale"]
    config = Qwen2Config(
        vocab_size=152064 // scale, hidden_size=5120 // scale, intermediate_size=27648 // scale,
        num_hidden_layers=sizes["layers"], num_attention_heads=40, num_key_value_heads=8, tie_word_embeddings=False,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6}, dtype="bfloat16",
    )  # fmt: skip
    folder.mkdir(parents=True)
    config.save_pretrained(folder)
    layout = WeightLayout(config, Mesh(0, 1, 1, 1, 1, 0, 0, 0, torch.device("cpu")))
    plans = [
        TensorPlan(name, shape, torch.bfloat16)
        for parameter in layout.everything()
        for name, shape in zip(parameter.hf_names, parameter.hf_shapes, strict=True)
    ]
    files = plan_files(plans, sizes["shard_mb"] * MB)
    generator = torch.Generator().manual_seed(0)
    for number, tensors in enumerate(files, start=1):
        with SafetensorsWriter(folder / file_name(number, len(files)), tensors) as writer:
            for tensor in tensors:
                writer.write(torch.randn(tensor.shape, generator=generator).bfloat16())
    write_index(folder, files)


def run_ranks(root: Path, sizes: dict[str, int]) -> list[dict[str, Any]]:
    """What every rank measured."""
    world = sizes["tensor"] * sizes["pipeline"]
    environment = os.environ | {
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": str(world), "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(Path(__file__).parents[1]),
    }  # fmt: skip
    command = [sys.executable, __file__, "--rank", str(root), str(sizes["tensor"]), str(sizes["pipeline"])]
    ranks = [
        subprocess.Popen(command, env=environment | {"RANK": str(rank)}, stdout=subprocess.PIPE, text=True)
        for rank in range(world)
    ]
    try:
        return [json.loads(process.communicate(timeout=LIMIT_S)[0].splitlines()[-1]) for process in ranks]
    finally:
        for process in ranks:
            process.kill()
            process.wait()


def rank_main(root: Path, tensor: int, pipeline: int) -> None:
    """One rank: import and export, each with its high-water mark."""
    torch.set_num_threads(1)
    mesh = join_mesh(tensor, pipeline, timeout_s=120)
    layout = WeightLayout(AutoConfig.from_pretrained(root / "model"), mesh)
    parameters: dict[str, torch.Tensor] = {}
    source = SafetensorsSource(layout, root / "model")

    def load() -> None:
        for parameter in layout.held():
            parameters[parameter.name] = torch.empty(layout.local_shape(parameter), dtype=torch.bfloat16)
            source.fill(parameter, parameters[parameter.name])

    def export() -> None:
        options = ExportOptions(max_file_bytes=64 * MB)
        write_hf_weights(
            root / "export",
            layout,
            lambda parameter: parameters[parameter.name],
            lambda parameter: torch.bfloat16,
            options,
            root / "model",
        )

    # The first collectives set up gloo's connections; they are no part of either phase.
    torch.distributed.barrier()
    found = {"rank": mesh.rank, "import_mb": peak_mb(load), "export_mb": peak_mb(export)}
    found["share_mb"] = sum(value.numel() * value.itemsize for value in parameters.values()) / MB
    leave_mesh()
    print(json.dumps(found))


def peak_mb(phase: Any) -> float:
    """High-water mark of the resident set during `phase`, above what was resident before; in MB."""
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark becomes the present size
    before = resident_kb("VmRSS")
    phase()
    return (resident_kb("VmHWM") - before) * 1024 / MB


def resident_kb(field: str) -> int:
    """A line of /proc/self/status, in KiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith(field + ":")))


def exported_alike(root: Path) -> bool:
    """Whether every tensor of the export is that of the checkpoint, bit for bit."""
    before, after = SafetensorsFolder(root / "model"), SafetensorsFolder(root / "export")
    return before.files.keys() == after.files.keys() and all(
        torch.equal(before.read(name), after.read(name)) for name in before.files
    )


def report(ranks: list[dict[str, Any]], same: bool, sizes: dict[str, int]) -> int:
    """Print the table; 0 where every rank stayed within its bound and the export is bit-exact."""
    scale = sizes["scale"]
    tensors = {"embedding": 152064 // scale * (5120 // scale), "MLP": (27648 // scale) * (5120 // scale)}
    largest_mb = 2 * max(tensors.values()) / MB
    print(f"{sizes['layers']} layers, bfloat16, TP{sizes['tensor']} × PP{sizes['pipeline']}; largest tensor "
          f"{largest_mb:.1f} MB; allowance {ALLOWANCE_MB:.0f} MB; export bit-exact: {same}")  # fmt: skip
    print("| rank | share, MB | import peak, MB | allowed | export peak, MB | allowed |")
    print("|---|---|---|---|---|---|")
    kept = same
    for found in ranks:
        import_bound = found["share_mb"] + largest_mb + ALLOWANCE_MB
        export_bound = largest_mb + ALLOWANCE_MB
        kept = kept and found["import_mb"] <= import_bound and found["export_mb"] <= export_bound
        print(f"| {found['rank']} | {found['share_mb']:.1f} | {found['import_mb']:.1f} | {import_bound:.1f} | "
              f"{found['export_mb']:.1f} | {export_bound:.1f} |")  # fmt: skip
    return 0 if kept else 1


if __name__ == "__main__":
    if sys.argv[1:2] == ["--rank"]:
        rank_main(Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
    else:
        sys.exit(main())
