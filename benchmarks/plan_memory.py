"""Peak memory of real training and log-prob passes in several layouts, against what `crossthink plan` says.

    .venv/bin/python benchmarks/plan_memory.py [LAYOUT ...]

A random Qwen2 of 132 M parameters (0.53 GB in float32) is trained by `MegatronActor` for a GRPO step on this machine's
CPU, every rank a process, over gloo: reference policy, log-probs, loss and Adam are those of a run. Each layout starts
anew. Measured is every byte that torch's CPU allocator handed out, temporaries of its kernels included: the profiler's
memory events, counted from before the model is built, and the highest sum within a phase. What numpy, gloo and Python
hold is no part of it. `passes` is the part above what was there when the phase began. Of tensor-parallel ranks it may
come out a few tensors too high: gloo's threads free what they were the last to hold, which the profiler does not see
(`Live`). `RSS` is a cross-check: the resident high-water mark of the phase above what was resident before the model was
built, which counts what the C allocator keeps free, the profiler's events and gloo's buffers, too.

A step comes first whose samples are short, so that Adam's state is there. Prints a Markdown table; the exit code is 1
where the plan of a stage is off by more than `LIMIT`. 10 GB of memory, half an hour on 2 cores.
"""

from __future__ import annotations

import bisect
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from conf.actor import ActorConfig
from conf.plan import PlanConfig
from conf.train import ModelConfig
from crossthink.procs import free_port
from recipes.models.families import read_shape
from recipes.planning.interface import Job
from recipes.planning.memory import memory

LIMIT = 0.15
PHASES = ("log_probs", "train")
STAYS = ("weights", "gradients", "Adam moments", "reference weights")
RUN_S = 1800
SHORT = 8  # tokens of a response in the step that comes first


@dataclass(frozen=True)
class Case:
    """A model and a batch; every sample has as many tokens as every other.

    Attributes:
        model: keys of config.json.
        prompt: tokens.
        response: tokens.
        samples: of an optimizer step, for each data-parallel rank.
        micro_batch_tokens: as in the config.
        head_chunk_mb: as in the config.
    """

    model: dict[str, int]
    prompt: int
    response: int
    samples: int
    micro_batch_tokens: int
    head_chunk_mb: int


LARGE = Case(
    model={
        "vocab_size": 32000, "hidden_size": 768, "intermediate_size": 2304, "num_hidden_layers": 12,
        "num_attention_heads": 12, "num_key_value_heads": 4,
    },
    prompt=64, response=192, samples=8, micro_batch_tokens=1024, head_chunk_mb=32,
)  # fmt: skip


@dataclass(frozen=True)
class Layout:
    """Parallel sizes, and what else of `actor.*` is not as usual."""

    tensor: int = 1
    pipeline: int = 1
    data: int = 1
    settings: dict[str, Any] = field(default_factory=dict)
    micro_batch_tokens: int | None = None

    @property
    def world(self) -> int:
        """Ranks: tensor × pipeline × data."""
        return self.tensor * self.pipeline * self.data


LAYOUTS = {
    "TP1": Layout(),
    "TP2": Layout(tensor=2),
    "PP2": Layout(pipeline=2),
    "TP2 × PP2": Layout(tensor=2, pipeline=2),
    "DP2, distributed optimizer": Layout(data=2),
    "TP2, full recompute": Layout(tensor=2, settings={"recompute": "full"}),
    "TP2, sequence parallel, selective recompute": Layout(
        tensor=2, settings={"recompute": "selective", "sequence_parallel": True}
    ),
    "PP2, micro-batches of 512": Layout(pipeline=2, micro_batch_tokens=512),
}


@dataclass(frozen=True)
class Compared:
    """A phase of a stage, in bytes; measured on its worst rank.

    Attributes:
        layout: name.
        stage: of the pipeline.
        phase: log_probs or train.
        planned: in all.
        measured: in all.
        planned_work: of these, what the passes take beside what stays: weights, gradients, Adam's state, reference.
        measured_work: above what was held when the phase began.
        resident: resident set.
    """

    layout: str
    stage: int
    phase: str
    planned: float
    measured: float
    planned_work: float
    measured_work: float
    resident: float

    @property
    def error(self) -> float:
        """How far the plan is off, relative to what was measured."""
        return self.planned / self.measured - 1


def main() -> int:
    """Measure the layouts that are named, or all of them; print the table."""
    unknown = sorted(set(sys.argv[1:]) - LAYOUTS.keys())
    if unknown:
        raise SystemExit(f"unknown: {', '.join(unknown)}. Known: {', '.join(LAYOUTS)}")
    print("| layout | stage | phase | plan, MB | measured, MB | error | passes: plan | measured | error | RSS, MB |")
    print("|---" * 10 + "|")
    worst = 0.0
    with tempfile.TemporaryDirectory() as root:
        for name in sys.argv[1:] or LAYOUTS:
            for one in compare(name, LAYOUTS[name], LARGE, Path(root)):
                worst = max(worst, abs(one.error))
                print(
                    f"| {one.layout} | {one.stage} | {one.phase} | {one.planned / 1e6:.0f} | "
                    f"{one.measured / 1e6:.0f} | {one.error:+.1%} | {one.planned_work / 1e6:.0f} | "
                    f"{one.measured_work / 1e6:.0f} | {one.planned_work / one.measured_work - 1:+.1%} | "
                    f"{one.resident / 1e6:.0f} |",
                    flush=True,
                )
    print(f"\nWorst error {worst:.1%}; at most {LIMIT:.0%} is the target.")
    return int(worst > LIMIT)


def compare(name: str, layout: Layout, case: Case, root: Path) -> Iterator[Compared]:
    """Every stage and phase of a layout; `root` keeps the model for the next one."""
    write_model(root / "model", case)
    planned = {(one.stage, one.phase): one for one in memory(planned_job(layout, case))}
    ranks = run_ranks(layout, case, root)
    for stage in range(layout.pipeline):
        for phase in PHASES:
            mine = [rank for rank in ranks if rank["stage"] == stage]
            worst = max(mine, key=lambda rank: rank[phase])
            items = [item for item in planned[stage, phase].items if item.name != "rollout weights"]  # not started here
            total = sum(item.amount for item in items)
            work = sum(item.amount for item in items if item.name not in STAYS)
            above = worst[phase] - worst[f"{phase}_start"]
            resident = worst[f"{phase}_resident"]
            yield Compared(name, stage, phase, total, worst[phase], work, above, resident)


def planned_job(layout: Layout, case: Case) -> Job:
    """The layout as `plan` sees it, on CPUs."""
    config = PlanConfig(
        model=ModelConfig(name="folder"),
        actor=ActorConfig(
            tensor_parallel=layout.tensor,
            pipeline_parallel=layout.pipeline,
            data_parallel=layout.data,
            dtype="float32",
            transformer_engine=False,
            packing=False,
            overlap=False,
            distributed_optimizer=layout.data > 1,
            head_chunk_mb=case.head_chunk_mb,
            **layout.settings,
        ),
        prompts_per_step=case.samples * layout.data // 2,
        samples_per_prompt=2,
        max_prompt_tokens=case.prompt,
        max_response_tokens=case.response,
        micro_batch_tokens=layout.micro_batch_tokens or case.micro_batch_tokens,
    )
    shape = read_shape({"model_type": "qwen2", **case.model}, "the model")
    return Job(config, shape, None, layout.world, 0, layout.world, case.prompt, case.response)


def write_model(folder: Path, case: Case) -> None:
    """A Hugging Face folder with random weights."""
    if folder.exists():
        return
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(0)
    Qwen2ForCausalLM(Qwen2Config(tie_word_embeddings=False, **case.model)).save_pretrained(folder)


def run_ranks(layout: Layout, case: Case, root: Path) -> list[dict[str, Any]]:
    """What every rank measured."""
    environment = os.environ | {
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": str(layout.world),
        "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[1]),
    }  # fmt: skip
    facts = json.dumps({"layout": asdict(layout), "case": asdict(case), "model": str(root / "model")})
    command = [sys.executable, __file__, "--rank", facts]
    logs = [open(root / f"rank_{rank}.log", "w+") for rank in range(layout.world)]  # noqa: SIM115
    ranks = [
        subprocess.Popen(command, env=environment | {"RANK": str(rank)}, stdout=subprocess.PIPE, stderr=log, text=True)
        for rank, log in enumerate(logs)
    ]
    try:
        answers = [process.communicate(timeout=RUN_S)[0].splitlines() for process in ranks]
        for process, log in zip(ranks, logs, strict=True):
            log.seek(0)
            if process.returncode:
                raise RuntimeError(f"A rank ended with {process.returncode}:\n{log.read()[-3000:]}")
        return [json.loads(lines[-1]) for lines in answers]
    finally:
        for process, log in zip(ranks, logs, strict=True):
            process.kill()
            process.wait()
            log.close()


def rank_main(facts: dict[str, Any]) -> None:
    """One rank: build, a short step, then log-probs and a step with the profiler's marks around them."""
    import torch
    from torch.profiler import ProfilerActivity, profile, record_function

    from recipes.actors.stack import prepare_stack

    torch.set_num_threads(1)
    prepare_stack()
    from conf.actor import OptimizerConfig
    from conf.algorithm import AlgorithmConfig
    from recipes.actors.mcore.mesh import join_mesh, leave_mesh
    from recipes.actors.megatron.actor import MegatronActor
    from recipes.rl.losses import policy_loss
    from recipes.rl.step import as_engine_loss

    layout, case = Layout(**facts["layout"]), Case(**facts["case"])
    mesh = join_mesh(layout.tensor, layout.pipeline)
    job = planned_job(layout, case)
    loss = as_engine_loss(policy_loss(AlgorithmConfig()))
    before = status_bytes("VmRSS")
    resident = {}
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        actor = MegatronActor(
            Path(facts["model"]),
            mesh,
            OptimizerConfig(),
            vocabulary=case.model["vocab_size"],
            pad_id=0,
            temperature=1.0,
            micro_batch_tokens=job.config.micro_batch_tokens,
            seed=0,
            with_reference=True,
            settings=job.config.actor,
        )
        count = case.samples * layout.data
        actor.train_step(samples(case, count, SHORT), loss, 1e-6)
        batch = samples(case, count, case.response)
        for phase in PHASES:
            torch.distributed.barrier()
            Path("/proc/self/clear_refs").write_text("5")  # resets the high-water mark
            with record_function(phase):
                if phase == "train":
                    actor.train_step(batch, loss, 1e-6)
                else:
                    actor.log_probs(batch, reference=True)
            resident[f"{phase}_resident"] = status_bytes("VmHWM") - before
    found = {"stage": mesh.stage, **peaks(profiler.profiler.kineto_results.experimental_event_tree()), **resident}
    leave_mesh()
    print(json.dumps(found))


def samples(case: Case, count: int, response: int) -> list[Any]:
    """`count` samples of random ids, with what the policy loss reads."""
    import torch

    from recipes.actors.interface import TokenizedSample

    draw = torch.Generator().manual_seed(0)
    names = ("weights", "advantages", "rollout_log_probs", "reference_log_probs")
    length = case.prompt + response
    return [
        TokenizedSample(
            torch.randint(0, case.model["vocab_size"], (length,), generator=draw).tolist(),
            case.prompt,
            {name: 0.01 * torch.rand(response, generator=draw) for name in names},
        )
        for _ in range(count)
    ]


def peaks(events: Sequence[Any]) -> dict[str, int]:
    """The most bytes that were allocated at a time within each phase, and at its start as `PHASE_start`.

    Args:
        events: the profiler's event tree.
    """
    every = sorted(_walk(events), key=lambda event: event.start_time_ns)
    spans = {event.name: (event.start_time_ns, event.end_time_ns) for event in every if event.name in PHASES}
    found, live = dict.fromkeys(spans, 0), Live()
    for event in every:
        if not hasattr(event.extra_fields, "alloc_size"):
            continue
        before = live.bytes
        live.changed(event.extra_fields.ptr, event.extra_fields.alloc_size)
        for phase, (start, end) in spans.items():
            if start <= event.start_time_ns <= end:
                found.setdefault(f"{phase}_start", before)
                found[phase] = max(found[phase], live.bytes)
    return found


def _walk(events: Sequence[Any]) -> Iterator[Any]:
    for event in events:
        yield event
        yield from _walk(event.children)


class Live:
    """Blocks that are allocated.

    The profiler does not see what gloo's own threads free, where one of them is the last to hold a tensor. Such a block
    counts until its memory is given out again: a new block drops those that it overlaps.
    """

    def __init__(self) -> None:
        self.bytes = 0
        self._starts: list[int] = []
        self._sizes: dict[int, int] = {}

    def changed(self, start: int, size: int) -> None:
        """A block at address `start` was allocated, or freed where `size` is negative."""
        if size <= 0:
            if start in self._sizes:
                self._drop(bisect.bisect_left(self._starts, start))
            return
        place = bisect.bisect_left(self._starts, start)
        if place and self._starts[place - 1] + self._sizes[self._starts[place - 1]] > start:
            place -= 1
            self._drop(place)
        while place < len(self._starts) and self._starts[place] < start + size:
            self._drop(place)
        self._starts.insert(place, start)
        self._sizes[start] = size
        self.bytes += size

    def _drop(self, place: int) -> None:
        self.bytes -= self._sizes.pop(self._starts.pop(place))


def status_bytes(field_name: str) -> int:
    """A memory figure of this process, from /proc."""
    lines = Path("/proc/self/status").read_text("utf-8").splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith(field_name + ":"))) * 1024


if __name__ == "__main__":
    if sys.argv[1:2] == ["--rank"]:
        rank_main(json.loads(sys.argv[2]))
    else:
        sys.exit(main())
