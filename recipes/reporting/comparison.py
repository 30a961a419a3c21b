"""A comparison of runs and evaluations: everything that its page and its Markdown file tell."""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass
from typing import Any

import yaml
from markupsafe import Markup

import crossthink
from recipes.reporting.comparison_charts import category_charts, comparison_charts
from recipes.reporting.differences import comparisons, costs
from recipes.reporting.directions import directions_svg
from recipes.reporting.facts import facts, without_secrets
from recipes.reporting.measured import Measured, Run
from recipes.reporting.picks import Picked, script_data
from recipes.reporting.tables import NOT_ASKED, UNKNOWN, SweepView, Table, group_tables, overview, paper_tables
from recipes.reporting.templates import render_template

READING = (
    "Accuracy is the share of questions whose last box holds the right answer, whatever the format; a question asked "
    "in several runs counts with their mean (the paper's protocol). Intervals are 95 % percentile bootstraps over "
    "questions: they say how far a number could move with other questions of the kind, not with another training run."
)
BELOW_SWEEP = "What follows is of the single runs and evaluations that this page was given, and not of all seeds."


@dataclass(frozen=True)
class Report:
    """The contents of a comparison, before any form."""

    runs: list[Run]
    evaluations: list[Measured]
    sweep: SweepView | None
    overview: Table | None
    differences: Table | None
    reasons: list[str]
    paper: list[Table]
    groups: list[Table]
    costs: Table | None
    notes: list[str]


def make_report(runs: list[Run], evaluations: list[Measured], sweep: SweepView | None = None) -> Report:
    """Everything that is in numbers."""
    differences, reasons = comparisons(evaluations)
    return Report(
        runs=runs,
        evaluations=evaluations,
        sweep=sweep,
        overview=overview(evaluations) if evaluations else None,
        differences=differences,
        reasons=reasons,
        paper=paper_tables(evaluations),
        groups=group_tables(evaluations),
        costs=costs(runs),
        notes=_notes(runs, evaluations),
    )


def render_comparison(report: Report, picked: list[Picked]) -> str:
    """The page as HTML; the answers in it are searched by a script of its own, and no other script may run."""
    script = render_template("samples.js.j2", {})
    charts = comparison_charts(report.runs, report.evaluations)
    categories = category_charts(report.evaluations)
    view = {
        "version": crossthink.__version__,
        "subtitle": subtitle(report),
        "reading": READING,
        "notes": report.notes,
        "contents": _contents(report, bool(charts), bool(picked)),
        "sweep": report.sweep,
        "below": BELOW_SWEEP,
        "directions": Markup(directions_svg(report.sweep.directions)) if report.sweep else "",
        "overview": report.overview,
        "differences": report.differences,
        "reasons": report.reasons,
        "paper": report.paper,
        "charts": charts,
        "categories": categories,
        "groups": report.groups,
        "costs": report.costs,
        "measured": _measured(report),
        "sample_count": len(picked),
        "samples": Markup(script_data(picked)),
        "script": Markup(script),
        "script_hash": "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        "absent": (UNKNOWN, NOT_ASKED),
    }
    return render_template("comparison.html.j2", view)


def subtitle(report: Report) -> str:
    """How much is compared."""
    counts = ((len(report.evaluations), "evaluation"), (len(report.runs), "training run"))
    parts = [f"{count} {what}{'' if count == 1 else 's'}" for count, what in counts if count]
    return " and ".join(parts) + ", beside the tables of Nemotron-CrossThink"


def _contents(report: Report, charts: bool, picked: bool) -> list[tuple[str, str]]:
    sections = (
        ("sweep", report.sweep.title if report.sweep else "", report.sweep),
        ("evaluations", "Our evaluations", report.overview),
        ("comparisons", "Paired differences", report.differences or report.reasons),
        *((table.anchor, table.title, True) for table in report.paper),
        ("charts", "Curves and lengths", charts),
        ("categories", "By category", report.groups),
        ("samples", "Answers", picked),
        ("costs", "Costs", report.costs),
        ("measured", "What it was measured on", True),
    )
    return [(anchor, title) for anchor, title, there in sections if there]


def _measured(report: Report) -> list[dict[str, Any]]:
    found = []
    for one in report.evaluations:
        known = one.summary["facts"]
        parts = without_secrets({key: value for key, value in known.items() if isinstance(value, dict | list)})
        rows = [(key, "unknown" if value is None else str(value)) for key, value in known.items() if key not in parts]
        found.append(
            {
                "name": f"Evaluation {one.name}",
                "facts": [("folder", str(one.folder.path)), *rows],
                "yaml": yaml.safe_dump(parts, sort_keys=False, allow_unicode=True) if parts else "",
            }
        )
    found += [{"name": f"Run {run.name}", "facts": facts(run.data), "yaml": ""} for run in report.runs]
    return found


def _notes(runs: list[Run], evaluations: list[Measured]) -> list[str]:
    """Sentences that a reader must know before believing a number."""
    found = []
    for one in evaluations:
        summary = one.summary
        if summary["invalid"]:
            left = f"{summary['invalid']} of {summary['answers']} answers"
            found.append(f"{one.name}: {left} could not be judged and are in no mean.")
        for key, what in (
            ("too_long", "questions were left out: prompt too long"),
            ("also_in_training", "questions also stand in the training pool"),
        ):
            if count := summary["facts"].get(key):
                found.append(f"{one.name}: {count} {what}.")
        missing = summary["average"]["missing"]
        if one.of_paper and missing:
            found.append(f"{one.name}: its averages are not the paper's, as {', '.join(missing)} were not asked.")
    if strangers := [one.name for one in evaluations if not one.of_paper]:
        which = ", ".join(strangers) if len(strangers) < len(evaluations) else "our evaluations"
        found.append(f"None of the paper's benchmarks was asked in {which}, so its tables hold none of them.")
    for run in runs:
        planned = run.data.config.get("steps")
        if planned and run.data.last_step < planned:
            found.append(f"{run.name}: the run is not finished, {run.data.last_step} of {planned} planned steps.")
    if not evaluations:
        found.append("No evaluation was given, and the runs hold none: the tables below are the paper's alone.")
    return found
