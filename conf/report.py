"""`crossthink report` and `crossthink doctor`."""

from __future__ import annotations

from dataclasses import dataclass, field

from conf.reward import ServeRewardConfig


@dataclass
class ReportConfig:
    """A self-contained HTML page: of one run (run=), or of runs and evaluations beside the paper's tables."""

    run: str | None = None
    """The run folder, for the page of one run."""
    runs: list[str] = field(default_factory=list)
    """Run folders to compare, each FOLDER or NAME=FOLDER. The evaluations inside them are taken too."""
    evaluations: list[str] = field(default_factory=list)
    """Folders that were out= of eval, each FOLDER or NAME=FOLDER. A name that is a row of the paper's tables (base,
    gpr_up, f_gpr_up, table3_numina_math) puts it beside that row; else the run that its checkpoint lies in tells."""
    sweep: str | None = None
    """sweep.json or study.json of a sweep: what it found over its seeds comes first on the page of a comparison."""
    samples: int = 200
    """Answers that the page of a comparison shows at most."""
    out: str | None = None
    """Where to write the page; null writes report.html into the run folder. A comparison needs it, and writes a
    Markdown file of the same name beside it."""


@dataclass
class DoctorConfig:
    """What of torch, CUDA, Transformer Engine, TensorRT-LLM, NeMo and SLURM is here, and what each would enable."""

    host: str = "127.0.0.1"
    """Address whose ports are tried."""
    ports: list[int] = field(default_factory=lambda: [ServeRewardConfig.port])
    """Ports that should be free: the reward server's default."""
    path: str = "."
    """Folder whose disk is looked at."""
