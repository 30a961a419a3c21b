"""The warm start: what it shows the model, and that the same seed makes the same base."""

import json
import math

import pytest
import torch
from pool_helpers import write_pool
from tiny_helpers import small_model, small_tokenizer
from transformers import AutoModelForCausalLM

from conf.train import WarmStartConfig
from data_prep.pool import Pool
from data_prep.rows import PoolRow
from recipes import warm_start
from recipes.models.tokenizer import load_tokenizer
from recipes.warm_start import Worked, make_base, read_worked, write_response

QUICK = WarmStartConfig(steps=3, batch_size=4)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def row(number, **changes):
    question = f"{number}+1?"
    fields = {
        "id": f"{number:032x}",
        "source": "numina_math",
        "domain": "math",
        "kind": "math",
        "question": question,
        "options": None,
        "ground_truth": [str(number + 1)],
        "prompt": [{"role": "user", "content": question}],
    }
    return PoolRow(**(fields | changes))


ROWS = [
    row(1),
    row(2),
    row(3, source="syn_qa", domain="gpr", kind="mcq", options={"A": "4", "B": "5"}, ground_truth=["A"]),
]


def line(source, question, answer, options=None):
    return {
        "source": source,
        "question": question,
        "options": options,
        "steps": f"so {answer}",
        "answer": answer,
        "slip_steps": "so 0",
        "slip_answer": "0",
    }


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A pool and its worked examples; two of these have no question in the pool."""
    folder = tmp_path_factory.mktemp("warm")
    write_pool(folder / "pool", ROWS)
    lines = [
        line("numina_math", "1+1?", "2"),
        line("numina_math", "9+1?", "10"),
        line("numina_math", "2+1?", "3"),
        line("syn_qa", "3+1?", "A", ["4", "5"]),
        line("syn_qa", "3+1?", "B", ["5", "4"]),  # the same question with its options in another order
    ]
    (folder / "worked.jsonl").write_text("".join(json.dumps(one) + "\n" for one in lines))
    return Pool.open(folder / "pool"), folder / "worked.jsonl"


def test_worked_examples_find_their_rows(data):
    found = read_worked(*data)
    assert [one.row for one in found] == ROWS
    assert [one.answer for one in found] == ["2", "3", "A"]


WORKED = Worked(ROWS[0], steps="so 2", answer="2", slip_steps="so 0", slip_answer="0")


@pytest.mark.parametrize(
    ("right", "thinks", "boxes", "text"),
    [
        (True, True, True, "<think>so 2</think>\\boxed{2}<|im_end|>"),
        (False, True, True, "<think>so 0</think>\\boxed{0}<|im_end|>"),
        (True, False, True, "\\boxed{2}<|im_end|>"),
        (True, True, False, "<think>so 2</think>2<|im_end|>"),
        (False, False, False, "0<|im_end|>"),
    ],
)
def test_the_styles_of_an_answer(right, thinks, boxes, text):
    assert write_response(WORKED, right=right, thinks=thinks, boxes=boxes) == text


def test_the_shares_of_the_styles_are_shares():
    assert sum(warm_start.STYLES.values()) == pytest.approx(1)


def test_the_schedule_warms_up_and_falls_to_a_tenth():
    rates = [warm_start._schedule(step, 500) for step in range(500)]
    assert rates[0] == pytest.approx(1 / 20) and max(rates) == pytest.approx(1, abs=0.01)
    assert rates[-1] == pytest.approx(0.1, abs=0.001)
    assert all(a >= b for a, b in zip(rates[20:], rates[21:], strict=False))
    assert all(rate > 0 for rate in rates)


def test_only_response_tokens_are_learned():
    """Loss and gradients are those of the mean over all response tokens, one sample at a time and unpadded."""
    pairs = [([5, 6, 7], [8, 9]), ([3], [4, 5, 6, 7, 8]), ([9, 9, 9, 9], [1]), ([2, 3], [4])]
    model = small_model().requires_grad_(True)
    loss = warm_start._backward(model, pairs, small_tokenizer().pad_token_id)
    found = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    total = torch.zeros(())
    for prompt, response in pairs:
        logits = model(torch.tensor([prompt + response])).logits[0]
        for position, token in enumerate(response):
            total = total - logits[len(prompt) + position - 1].log_softmax(-1)[token]
    wanted = total / sum(len(response) for _, response in pairs)
    wanted.backward()
    assert loss == pytest.approx(wanted.item(), rel=1e-5)
    for name, parameter in model.named_parameters():
        assert torch.allclose(found[name], parameter.grad, atol=1e-5), name


@pytest.fixture(scope="module")
def base(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("base") / "base"
    seen = []
    make_base(folder, *data, QUICK, 0, lambda step, loss: seen.append((step, loss)))
    return folder, seen


def test_a_base_is_a_model_folder(base):
    folder, seen = base
    assert [step for step, _ in seen] == [1, 2, 3]
    assert all(0 < loss < 2 * math.log(512) for _, loss in seen)
    tokenizer = load_tokenizer(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert model.config.eos_token_id == tokenizer.eos_token_id
    assert (folder / "model.safetensors").is_file()
    assert sorted(p.name for p in folder.parent.iterdir()) == ["base"]


def test_the_seed_makes_the_base(base, data, tmp_path):
    folder, _ = base
    for seed in (0, 1):
        make_base(tmp_path / str(seed), *data, QUICK, seed, lambda *_: None)
    weights = (folder / "model.safetensors").read_bytes()
    assert (tmp_path / "0" / "model.safetensors").read_bytes() == weights
    assert (tmp_path / "1" / "model.safetensors").read_bytes() != weights
    assert (tmp_path / "0" / "tokenizer.json").read_bytes() == (tmp_path / "1" / "tokenizer.json").read_bytes()


def test_it_is_cut_off_without_a_trace(data, tmp_path):
    def cut(step, loss):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_base(tmp_path / "base", *data, QUICK, 0, cut)
    assert list(tmp_path.iterdir()) == []
