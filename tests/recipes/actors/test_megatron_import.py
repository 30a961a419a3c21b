"""Weights from safetensors into ranks and back: slices, damage, and two ranks in every family."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from families_helpers import FAMILY_CONFIGS, random_model
from hypothesis import given, settings
from hypothesis import strategies as st
from megatron.core import parallel_state
from megatron.core.dist_checkpointing import ShardedTensor
from megatron.core.dist_checkpointing.dict_utils import nested_values
from megatron.core.dist_checkpointing.mapping import apply_factories
from megatron.core.tensor_parallel.random import model_parallel_cuda_manual_seed
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

from conf.actor import ActorConfig
from crossthink.errors import UserError
from crossthink.procs import free_port
from recipes.actors.mcore.dist_weights import DistSource, sharded
from recipes.actors.mcore.export_weights import ExportOptions, write_hf_weights
from recipes.actors.mcore.import_weights import SafetensorsSource
from recipes.actors.mcore.layout import WeightLayout, local_parameters
from recipes.actors.mcore.mesh import Mesh, join_mesh, leave_mesh
from recipes.actors.megatron.cpu import redirect_to_cpu
from recipes.actors.megatron.model import build_model
from recipes.models.weights import SafetensorsFolder

HERE = Path(__file__).parent
LIMIT_S = 240


@pytest.fixture(scope="module")
def mesh() -> Iterator[Mesh]:
    """This process alone."""
    yield join_mesh(1, 1)
    leave_mesh()


def run_ranks(script: Path, world: int, root: Path) -> None:
    """Run a script on the folder `root` as `world` ranks, under a time limit, and insist that each ends well."""
    environment = os.environ | {
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": str(world), "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join([str(HERE), str(HERE.parents[2])]),
    }  # fmt: skip
    # Into files: a pipe that nobody reads while another rank is waited for would fill up and stop its rank.
    logs = [root / f"rank_{rank}.log" for rank in range(world)]
    with contextlib.ExitStack() as stack:
        outputs = [stack.enter_context(open(log, "w")) for log in logs]
        ranks = [
            subprocess.Popen(
                [sys.executable, str(script), str(root)],
                env=environment | {"RANK": str(rank)},
                stdout=output,
                stderr=subprocess.STDOUT,
            )
            for rank, output in enumerate(outputs)
        ]
        try:
            for process, log in zip(ranks, logs, strict=True):
                assert process.wait(timeout=LIMIT_S) == 0, log.read_text()[-3000:]
        finally:
            for process in ranks:
                process.kill()
                process.wait()


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every family, loaded and exported at TP2 and at PP2, in one launch."""
    root = tmp_path_factory.mktemp("two_ranks")
    for name in FAMILY_CONFIGS:
        random_model(name, root / "models" / name, max_shard_size="50KB")
        for layout in ("tp2", "pp2"):
            (root / layout / name).mkdir(parents=True)
    (root / "states").mkdir()
    run_ranks(HERE / "import_ranks.py", 2, root)
    return root


@pytest.mark.parametrize("layout", ["tp2", "pp2"])
@pytest.mark.parametrize("name", FAMILY_CONFIGS)
def test_two_ranks_equal_transformers(name: str, layout: str, two_ranks: Path) -> None:
    for rank in (0, 1):
        found = json.loads((two_ranks / f"rank_{rank}.json").read_text())[f"{layout} {name}"]
        assert found["log_probs"] < 1e-5
        assert found["grad_norm"] < 1e-5
        assert found["names"] == found["weights"] == 0
        assert found["state"] == 0, "what TP2 saved is not what this layout reads"


@pytest.mark.parametrize("layout", ["tp2", "pp2"])
@pytest.mark.parametrize("name", FAMILY_CONFIGS)
def test_two_ranks_export_bit_for_bit(name: str, layout: str, two_ranks: Path) -> None:
    """transformers reads the folder, of several files; every tensor is what it was."""
    model = AutoModelForCausalLM.from_pretrained(two_ranks / "models" / name)
    folder = two_ranks / layout / name
    exported = AutoModelForCausalLM.from_pretrained(folder)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), exported.parameters(), strict=True))
    assert len(list(folder.glob("*.safetensors"))) > 2
    SafetensorsFolder(folder).check_names(dict(model.named_parameters()))


@pytest.mark.parametrize("name", FAMILY_CONFIGS)
def test_one_process_reads_what_two_saved(name: str, two_ranks: Path, mesh: Mesh) -> None:
    """The vocabulary of 97 was padded to 98 by those who wrote it."""
    layout = alone(two_ranks / "models" / name, mesh)
    source, files = (
        DistSource(layout, two_ranks / "states" / name),
        SafetensorsSource(layout, two_ranks / "models" / name),
    )
    for parameter in layout.held():
        found, wanted = torch.full((2, *layout.local_shape(parameter)), float("nan"))
        source.fill(parameter, found)
        files.fill(parameter, wanted)
        assert torch.equal(found, wanted), parameter.name


@pytest.mark.parametrize("name", ["qwen2", "qwen3_tied"])
def test_names_and_offsets_are_megatron_cores_own(name: str, mesh: Mesh, tmp_path: Path) -> None:
    """A run's checkpoint loads from what `save_weights` writes, and the other way round."""
    random_model(name, tmp_path)
    config = AutoConfig.from_pretrained(tmp_path)
    redirect_to_cpu()
    model_parallel_cuda_manual_seed(0)
    model = build_model(config, mesh, ActorConfig())
    theirs = model.sharded_state_dict(
        metadata={"dp_cp_group": parallel_state.get_data_parallel_group(with_context_parallel=True)}
    )
    apply_factories(theirs)
    shards = [x for x in nested_values(theirs) if isinstance(x, ShardedTensor)]
    layout, parameters = WeightLayout(config, mesh), local_parameters(model)
    ours = [shard for p in layout.held() for shard in sharded(p, parameters[p.name], layout)]

    def place(shard: ShardedTensor) -> tuple[object, ...]:
        return (shard.key, shard.global_shape, shard.global_offset, shard.local_shape, shard.axis_fragmentations)

    assert sorted(map(place, ours)) == sorted(map(place, shards))


def test_import_and_export_stay_within_a_share_and_a_tensor(tmp_path: Path) -> None:
    """The benchmark in miniature: two ranks, six layers."""
    script = HERE.parents[2] / "benchmarks" / "import_memory.py"
    words = ("layers=6", "scale=8", "tensor=2", "pipeline=1")
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path), *words],
        env=os.environ | {"PYTHONPATH": str(HERE.parents[2])},
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
    )
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    assert "export bit-exact: True" in done.stdout


def alone(folder: Path, mesh: Mesh) -> WeightLayout:
    return WeightLayout(AutoConfig.from_pretrained(folder), mesh)


def load(folder: Path, mesh: Mesh) -> dict[str, torch.Tensor]:
    """Every parameter of the folder, in one process."""
    layout = alone(folder, mesh)
    source = SafetensorsSource(layout, folder)
    found = {}
    for parameter in layout.held():
        found[parameter.name] = torch.full(layout.local_shape(parameter), float("nan"))
        source.fill(parameter, found[parameter.name])
    return found


@given(
    heads_per_group=st.integers(1, 4), tensor=st.sampled_from([1, 2, 4]), groups_per_rank=st.integers(1, 3),
    head_dim=st.sampled_from([2, 6]), vocabulary=st.integers(1, 30), qwen3=st.booleans(),
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_slices_of_all_ranks_are_the_whole(
    heads_per_group: int, tensor: int, groups_per_rank: int, head_dim: int, vocabulary: int, qwen3: bool
) -> None:
    """Every element of every Hugging Face tensor lies on exactly one rank, or, where nothing is split, on each."""
    groups = groups_per_rank * tensor
    sizes = {
        "hidden_size": 8 * groups * heads_per_group, "num_hidden_layers": 1, "head_dim": head_dim,
        "num_attention_heads": groups * heads_per_group,
        "num_key_value_heads": groups, "intermediate_size": 3 * tensor, "vocab_size": vocabulary,
    }  # fmt: skip
    config = AutoConfig.for_model("qwen3" if qwen3 else "llama", **sizes, tie_word_embeddings=False)
    device = torch.device("cpu")
    meshes = [Mesh(rank, tensor, tensor, 1, 1, rank, 0, 0, device) for rank in range(tensor)]
    layouts = [WeightLayout(config, mesh) for mesh in meshes]
    for parameter in layouts[0].everything():
        counts = [torch.zeros(shape) for shape in parameter.hf_shapes]
        for rank, layout in enumerate(layouts):
            local = torch.arange(float(torch.Size(layout.local_shape(parameter)).numel()))
            local = local.view(layout.local_shape(parameter))
            views, slices = layout.views(parameter, local, rank), layout.slices(parameter, rank)
            assert sum(view.numel() for view in views) <= local.numel()
            assert len({float(x) for view in views for x in view.flatten()}) == sum(view.numel() for view in views)
            for count, view, part in zip(counts, views, slices, strict=True):
                count[part] += torch.ones_like(view).reshape(count[part].shape)
        wanted = tensor if parameter.split is None else 1
        assert all(bool((count == wanted).all()) for count in counts), parameter.name


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_half_precision_files_fill_any_parameters(dtype: torch.dtype, mesh: Mesh, tmp_path: Path) -> None:
    """bf16 files into fp32 parameters and back is exact."""
    model = random_model("qwen2", tmp_path).to(torch.bfloat16)
    model.save_pretrained(tmp_path)
    layout = alone(tmp_path, mesh)
    source = SafetensorsSource(layout, tmp_path)
    assert {source.dtype(parameter) for parameter in layout.everything()} == {torch.bfloat16}

    def local(parameter: object) -> torch.Tensor:
        found = torch.empty(layout.local_shape(parameter), dtype=dtype)
        source.fill(parameter, found)
        return found

    (tmp_path / "out").mkdir()
    options = ExportOptions(torch.bfloat16, 5e9)
    write_hf_weights(tmp_path / "out", layout, local, lambda parameter: dtype, options, tmp_path)
    before, after = (load_file(f / "model.safetensors") for f in (tmp_path, tmp_path / "out"))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def without(name: str) -> Callable[[dict[str, torch.Tensor]], None]:
    return lambda tensors: tensors.pop(name)


def with_tensor(name: str, tensor: torch.Tensor) -> Callable[[dict[str, torch.Tensor]], None]:
    return lambda tensors: tensors.update({name: tensor})


DAMAGE: dict[str, tuple[str, Callable[[dict[str, torch.Tensor]], None], str]] = {
    "missing": ("qwen2", without("model.layers.1.mlp.up_proj.weight"), r"no tensor 'model\.layers\.1\.mlp\.up_proj"),
    "missing head": ("qwen2", without("lm_head.weight"), r"no tensor 'lm_head\.weight'"),
    "extra": ("qwen2", with_tensor("model.layers.3.x", torch.ones(1)), r"safetensors holds.*'model\.layers\.3\.x'"),
    "misshapen": (
        "qwen2", with_tensor("model.norm.weight", torch.ones(47)), r"'model\.norm\.weight'.*\(47,\).*\(48,\)",
    ),
    "misshapen query": (
        "qwen3", with_tensor("model.layers.0.self_attn.q_proj.weight", torch.ones(96, 48)),
        r"q_proj.*\(96, 48\).*\(144, 48\)",
    ),
    "integers": (
        "llama", with_tensor("model.norm.weight", torch.ones(48, dtype=torch.int8)), r"norm\.weight' is of type I8",
    ),
    "another head in a tied model": (
        "qwen2_tied", with_tensor("lm_head.weight", torch.ones(97, 48)), r"tie_word_embeddings=true, but lm_head",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_named(name: str, mesh: Mesh, tmp_path: Path) -> None:
    family, damage, message = DAMAGE[name]
    random_model(family, tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    damage(tensors)
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=message):
        load(tmp_path, mesh)


def test_what_does_no_harm_is_accepted(mesh: Mesh, tmp_path: Path) -> None:
    """A tied head that repeats the embedding, and buffers that old checkpoints list."""
    random_model("qwen2_tied", tmp_path)
    before = load(tmp_path, mesh)
    tensors = load_file(tmp_path / "model.safetensors")
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(4)
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    assert all(torch.equal(value, before[name]) for name, value in load(tmp_path, mesh).items())


def shards(folder: Path) -> list[Path]:
    return sorted(folder.glob("model-*.safetensors"))


def test_a_truncated_shard_is_named(mesh: Mesh, tmp_path: Path) -> None:
    random_model("llama", tmp_path, max_shard_size="50KB")
    last = shards(tmp_path)[-1]
    last.write_bytes(last.read_bytes()[:-100])
    with pytest.raises(UserError, match=f"{last.name} cannot be read as safetensors"):
        load(tmp_path, mesh)


def test_a_shard_of_another_model_is_named(mesh: Mesh, tmp_path: Path) -> None:
    random_model("llama", tmp_path, max_shard_size="50KB")
    first, second, *_ = shards(tmp_path)
    second.write_bytes(first.read_bytes())
    with pytest.raises(UserError, match=f"{second.name} gives no tensor .* although .*index.json"):
        load(tmp_path, mesh)


def test_a_tensor_that_the_index_hides_is_named(mesh: Mesh, tmp_path: Path) -> None:
    random_model("llama", tmp_path, max_shard_size="50KB")
    first = shards(tmp_path)[0]
    save_file(load_file(first) | {"model.stray": torch.ones(2)}, first)
    with pytest.raises(UserError, match=f"{first.name} holds the tensor 'model.stray', which .*index.json"):
        load(tmp_path, mesh)
