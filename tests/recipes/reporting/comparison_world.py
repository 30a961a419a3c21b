"""Evaluations of every benchmark and the runs that they belong to, made without a model."""

import json
import random

import yaml
from eval_samples import sample, write_evaluation
from report_helpers import NASTY, make_run, write_lines

from crossthink.files import write_json
from data_prep.benchmarks import BENCHMARKS
from recipes.sweeping.arms import STUDY_ARMS
from recipes.sweeping.collect import collect

SIZES = {
    "mmlu_test": 60,
    "mmlu_pro": 60,
    "gpqa_diamond": 20,
    "agieval": 40,
    "supergpqa": 50,
    "math500": 40,
    "amc23": 40,
}
CATEGORIES = ("law", "business", "psychology", "physics", "chemistry")
SECRET = "a question that may not be published"


def answers(skill, names=tuple(BENCHMARKS), runs=1, seed=0):
    """Samples in the order of the benchmarks; of two skills the better one is right wherever the other is."""
    draws = random.Random(seed)
    found = []
    for name in names:
        for number in range(SIZES.get(name, 30)):
            luck, length = draws.random(), draws.randint(20, 400)
            groups = {"category": CATEGORIES[number % len(CATEGORIES)]} if name == "mmlu_pro" else {}
            fields = {"private": True, "question": None, "options": None, "response": SECRET}
            for run in range(runs):
                one = sample(number, int(luck < skill), name, run, tokens=length, groups=groups)
                found.append(one | fields if name == "gpqa_diamond" else one)
    return found


def facts(**more):
    return {"engine": "local", "rules_hash": "0123456789ab", "asked": {"mmlu_test": {"hub_id": "cais/mmlu"}}, **more}


def with_blend(run, blend, **more):
    """Say that the run was of this blend."""
    config = yaml.safe_load((run / "config.yaml").read_text())
    (run / "config.yaml").write_text(yaml.safe_dump({**config, "blend": {"name": blend}, **more}))
    return run


def rollouts(run, steps=(1, 20, 40), each=16):
    """Samples that the run was trained on, the first of every step with everything in it that could harm a page."""
    for step in steps:
        lines = []
        for number in range(each):
            one = sample(number, number % 2)
            response = NASTY.replace("\ud800", "") + "\u2028" if number == 0 else one["response"]
            lines.append(
                {**one, "prompt": f"prompt {number}", "response": response, "token_ids": [1] * 5, "step": step}
            )
        write_lines(run / "rollouts" / f"step_{step:06d}.jsonl", lines)


def make_world(folder):
    """Two runs, each with a checkpoint evaluated on all benchmarks, and the base model; words for the command."""
    runs = {name: with_blend(make_run(folder / name, evaluated=False), name) for name in ("gpr_up", "only_mr")}
    rollouts(runs["gpr_up"])
    for name, skill in (("gpr_up", 0.6), ("only_mr", 0.55)):
        known = facts(checkpoint=str(runs[name] / "checkpoints/step_000040"), also_in_training=2)
        write_evaluation(folder / f"eval_{name}", answers(skill), facts=known)
    write_evaluation(folder / "eval_base", answers(0.4), facts=facts(checkpoint="models/qwen"))
    other = {"questions": "f" * 64}
    write_evaluation(
        folder / "eval_few", answers(0.5, ("math500",)), other, facts(endpoint="http://h/v1", model="m<b>")
    )
    names = {"base": "base", "gpr-up run": "gpr_up", "math run": "only_mr", "few": "few"}
    return {
        "runs": [f"{name}={path}" for name, path in runs.items()],
        "evaluations": [f"{name}={folder / f'eval_{part}'}" for name, part in names.items()],
    }


def summary_of(folder):
    return json.loads((folder / "summary.json").read_text())


def write_sweep(folder, seeds=3):
    """The JSON file of a sweep: gpr_up is right nearly always, nd half the time, the base seldom; one run failed."""
    skills = {"base": 0.2, "gpr_up": 0.9, "nd": 0.5}
    evaluations = {
        arm: {
            seed: write_evaluation(folder / f"sweep/{arm}/seed_{seed}", answers(skill, seed=seed), facts=facts())
            for seed in range(seeds)
        }
        for arm, skill in skills.items()
    }
    found = collect("Sweep <b>", "Trained on $x$.", STUDY_ARMS, evaluations, {"only_mr/seed_0": "failed_with 1"})
    write_json(folder / "sweep/sweep.json", found)
    return folder / "sweep/sweep.json"
