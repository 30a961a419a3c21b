"""`crossthink report`: one self-contained HTML page, of a run or of many beside the paper's tables."""

from __future__ import annotations

from pathlib import Path

from conf.report import ReportConfig
from crossthink.errors import ConfigError, UserError
from crossthink.files import atomic_file
from recipes.reporting.run_data import read_run

PAGE = "report.html"


def run(config: ReportConfig) -> None:
    """Write the page of one run, or page and Markdown file of a comparison.

    Raises:
        ConfigError: there is no run or evaluation in a folder, or out is no name of a page.
        UserError: a file cannot be read, or the page cannot be written.
    """
    if config.runs or config.evaluations or config.sweep:
        _compare(config)
        return
    if config.run is None:
        raise ConfigError(
            "run=RUN (the page of one run), or runs=[...], evaluations=[...] or sweep=FILE: what shall be reported?"
        )
    data = read_run(Path(config.run))
    out = Path(config.out) if config.out else data.folder / PAGE
    _check_out(out)
    from recipes.reporting.page import render  # matplotlib takes its time

    _write(out, render(data))
    print(f"report: {out}")


def _compare(config: ReportConfig) -> None:
    if config.run is not None:
        raise ConfigError(f"run={config.run} makes the page of one run. To compare it, give it in runs=[...] instead.")
    if config.out is None:
        raise ConfigError(
            "out= is required with runs=, evaluations= or sweep=: the name of the page, such as report.html."
        )
    if config.samples < 0:
        raise ConfigError(f"samples={config.samples} is too small: at least 0.")
    out = Path(config.out)
    beside = out.with_suffix(".md")
    if beside == out:
        raise ConfigError(f"out={out} names the Markdown file. Give the name of the page: {out.with_suffix('.html')}.")
    _check_out(out)
    from recipes.reporting.comparison import make_report, render_comparison
    from recipes.reporting.markdown import render_markdown
    from recipes.reporting.measured import read_evaluations, read_runs
    from recipes.reporting.over_seeds import read_view
    from recipes.reporting.picks import pick_answers

    runs = read_runs(config.runs)
    evaluations = read_evaluations(runs, config.evaluations)
    sweep = read_view(Path(config.sweep)) if config.sweep is not None else None
    report = make_report(runs, evaluations, sweep)
    _write(out, render_comparison(report, pick_answers(runs, evaluations, config.samples)))
    _write(beside, render_markdown(report))
    print(f"report: {out} and {beside}")


def _check_out(out: Path) -> None:
    if out.is_dir():
        raise ConfigError(f"out={out} is a folder. Give the name of the page, such as {out / PAGE}.")


def _write(out: Path, text: str) -> None:
    try:
        with atomic_file(out) as handle:
            handle.write(text)
    except OSError as error:
        raise UserError(f"{out} cannot be written: {error.strerror}. Choose another out=.") from error


def result_plot(run_folder: Path | str, path: Path | str) -> None:
    """Draw training curves and held-out results before and after into one PNG; the same run, the same bytes.

    Raises:
        ConfigError: there is no run in the folder.
        UserError: a file of the run cannot be read.
    """
    data = read_run(Path(run_folder))
    from recipes.reporting import figures

    figures.result_plot(data, Path(path))
