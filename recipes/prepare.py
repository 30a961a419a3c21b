"""What the tiny recipe makes for itself: the demo's sources and pools, and a base policy that has seen them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from conf.prep import FilterConfig, PrepConfig, PromptConfig, SourceConfig
from conf.train import TrainConfig
from data_prep.pool import Pool
from recipes.machine import threads
from recipes.run_folder import BASE, DEMO_HELD_OUT, DEMO_POOL, DEMO_SOURCES


def prepare(config: TrainConfig) -> None:
    """Make what the tiny recipe lacks: its demo pools and its warm-started base. Every piece is made once, whole."""
    if config.model.name != "tiny":
        return
    out = Path(config.out)
    demo_pools(out, config.seed)
    if not (out / BASE).is_dir():
        _warm_start(config)


def demo_pools(out: Path, seed: int) -> None:
    """Write the demo's sources and prepare the training and held-out pools from them, where they are missing."""
    from data_prep import prep, tables
    from data_prep.demo.sources import BARE_PROMPTS, DEMO_LICENCE, write_demo_sources
    from data_prep.demo.tasks import TASKS

    if not (out / DEMO_SOURCES).is_dir():
        write_demo_sources(out / DEMO_SOURCES, seed)
    for split, pool in (("train", DEMO_POOL), ("held_out", DEMO_HELD_OUT)):
        if not (out / pool).is_dir():
            made = prep.make_pool(
                PrepConfig(
                    out=str(out / pool),
                    sources={
                        name: SourceConfig(path=str(out / DEMO_SOURCES / split / f"{name}.jsonl"), licence=DEMO_LICENCE)
                        for name in TASKS
                    },
                    answer_template="short",
                    filters=FilterConfig(math_levels=None),
                    # The tiny model learned the form of an answer in its warm start; every prompt token costs time.
                    prompts=PromptConfig(folder=str(BARE_PROMPTS)),
                    workers=1,
                    seed=seed,
                )
            )
            tables.print_rows(out / pool, made)


def _warm_start(config: TrainConfig) -> None:
    import torch

    from recipes.quiet import quiet_libraries
    from recipes.warm_start import make_base

    quiet_libraries()
    out = Path(config.out)
    torch.set_num_threads(threads(config.actor.threads))
    with _bar("warm start", config.warm_start.steps) as progress:
        pool = Pool.open(out / DEMO_POOL)
        make_base(out / BASE, pool, out / DEMO_SOURCES / "worked.jsonl", config.warm_start, config.seed, progress)


class _bar:
    """A progress bar as a context; calling what it yields shows a step and its loss."""

    def __init__(self, title: str, total: int) -> None:
        from rich.console import Console
        from rich.progress import Progress

        self.bar = Progress(console=Console(stderr=True))
        self.title = title
        self.task = self.bar.add_task(title, total=total)

    def __enter__(self) -> Callable[[int, float], None]:
        self.bar.start()
        return lambda step, loss: self.bar.update(
            self.task, completed=step, description=f"{self.title}: loss {loss:.3f}"
        )

    def __exit__(self, *exception: object) -> None:
        self.bar.stop()
