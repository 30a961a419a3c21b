"""Run folders as `crossthink demo` leaves them, made without a model, and the inside of a report page."""

import json
import re
from html.parser import HTMLParser

from conf.compose import to_yaml
from conf.train import TrainConfig
from recipes.rl.evaluation import summarise

SOURCES = (("mmlu_train", "gpr", "mcq"), ("natural_reasoning", "gpr", "open"), ("numina_math", "math", "math"))
NASTY = 'Is 1 < 2 & "3" > 2?<script>alert(1)</script>\x00\u202e\ud800</div>'
VOID = {"meta", "br", "link", "img", "input", "hr"}


def sample(number, right, formed=True, text=None, tokens=10):
    source, domain, kind = SOURCES[number % 3]
    response = text or f"<think>it is {number}</think>\\boxed{{{number if right else 0}}}"
    verdict = {
        "id": f"{number}.0",
        "reward": float(right and formed),
        "accuracy": int(right),
        "format": int(formed),
        "extracted": "x",
        "status": "correct" if right and formed else "wrong" if formed else "bad_format",
        "elapsed_ms": 0.01,
    }
    return {
        "prompt_id": f"{number:032x}",
        "source": source,
        "domain": domain,
        "kind": kind,
        "prompt": f"<|im_start|>user\nquestion {number}<|im_end|>\n",
        "response": response,
        "token_ids": list(range(tokens)),
        "finish_reason": "stop",
        "weight_version": 0,
        "ground_truth": [str(number)],
        "options": {"A": "one", "B": "two"} if kind == "mcq" else None,
        "verdict": verdict,
        "answer_accuracy": int(right),
        "question": f"question {number}",
    }


def metrics(step):
    share = 0.2 + 0.5 * step / 50
    return {
        "step": step,
        "loss": 0.001 * step,
        "grad_norm": 0.4,
        "lr": 1e-4,
        "kl": 0.001 * step,
        "entropy": 0.3,
        "logprob_error": 1.0000004,
        "clipped": 0.0,
        "reward": share,
        "accuracy": share + 0.05,
        "format": 0.9,
        "response_tokens": 11.5,
        "truncated": 0.0,
        "zero_variance_groups": 8,
        "invalid": 0.0,
        "passed_over": 0,
        "tokens": 9000,
        "tokens_per_second": 4500.0,
        "mfu": 0.4 if step % 2 else 0.2,
        "tflops": {"rollout": 1.5, "train": 90.0},
        "padding": 0.021,
        "peak_memory_mb": 600.0 + step,
        "seconds": {"rollout": 0.5, "reward": 0.1, "log_probs": 0.3, "train": 1.0, "refit": 0.1, "total": 2.0},
    }


def write_lines(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def make_run(folder, steps=40, evaluated=True, change=None):
    """A run folder as `crossthink demo` leaves it; `change(before, after)` may alter the evaluations' rows."""
    folder.mkdir()
    config = TrainConfig(out=str(folder), steps=steps, prompts_per_step=32)
    config.model.name, config.reward.token = "tiny", "s3cret"
    (folder / "config.yaml").write_text(to_yaml(config))
    manifest = {
        "format": "crossthink-run",
        "crossthink": "0.1.0",
        "python": "3.11.7",
        "packages": {"torch": "2.13.0", "math-verify": "0.9.0"},
        "facts": {"pool_sha256": "a" * 64, "model_sha256": "b" * 64, "rules_hash": "0123456789ab"},
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    write_lines(folder / "metrics.jsonl", [metrics(step + 1) for step in range(steps)])
    if evaluated:
        before = [sample(i, right=i % 5 == 0, formed=i % 2 == 0, tokens=10) for i in range(60)]
        after = [sample(i, right=i % 5 != 1, tokens=12) for i in range(60)]
        if change:
            change(before, after)
        for name, rows in (("base", before), ("final", after)):
            write_lines(folder / "eval" / name / "samples.jsonl", rows)
            facts = {"pool_sha256": "c" * 64, "rules_hash": "0123456789ab", "too_long": 0, "also_in_training": 0}
            (folder / "eval" / name / "summary.json").write_text(json.dumps({**facts, **summarise(rows)}))
        (folder / "report.json").write_text(json.dumps({"seconds": 123.4, "seed": 0, "steps": steps}))
    return folder


class Page(HTMLParser):
    """Checks that elements nest, and gathers text, references and ids."""

    def __init__(self, text):
        super().__init__()
        self.open, self.references, self.ids, self.tags, self.pieces = [], [], [], [], []
        self.feed(text)
        self.close()
        assert not self.open
        self.text = re.sub(r"\s+", " ", " ".join(self.pieces))

    def handle_startendtag(self, tag, attrs):
        self.note(tag, attrs)

    def handle_starttag(self, tag, attrs):
        self.note(tag, attrs)
        if tag not in VOID:
            self.open.append(tag)

    def note(self, tag, attrs):
        self.tags.append(tag)
        self.references += [v for k, v in attrs if k in ("src", "href", "xlink:href", "srcset", "data", "action")]
        self.ids += [v for k, v in attrs if k == "id"]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not {"style", "svg"} & set(self.open):
            self.pieces.append(data)
