"""NeMo-Aligner's reward model: tokens in, rewards out, without PyTriton; and the process with it."""

import contextlib
import json
import subprocess
import sys
import unicodedata

import numpy as np
import pytest
from protocol_helpers import ROOT, boxed, byte_tokenizer, environment, label
from reward_helpers import serving

from crossthink.errors import ConfigError
from crossthink.procs import free_port, stop
from reward_server.local import LocalJudge
from reward_server.protocols.aligner import BadInput, Rewarder, texts_to_items, tokens_to_texts
from reward_server.protocols.gold_book import GoldBook, UnknownPrompt
from reward_server.protocols.rewards import InvalidItems
from reward_server.protocols.tokenizer import Tokenizer

pytest.importorskip("transformers", reason="transformers is not installed")

DECOMPOSED = unicodedata.normalize("NFD", "Combien d'étés?")
ROWS = [
    ("How many?", label()),
    ("How many? And why?", label(gold=("6",))),
    ("Which?", label("mcq", ("B",), {"A": "Rome", "B": "Paris"})),
    (DECOMPOSED, label(gold=("7",))),
    ("Bad?", label(gold=("",))),
]


def messages(question):
    return [{"role": "user", "content": question}]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """With a tokenizer that normalises, and the rows of a trainer."""
    path = tmp_path_factory.mktemp("aligner")
    byte_tokenizer(path / "tokenizer", normal=True)
    lines = [json.dumps({"input": messages(question), "label": gold}) for question, gold in ROWS]
    (path / "rows.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def tokenizer(folder):
    return Tokenizer(folder / "tokenizer")


@pytest.fixture(scope="module")
def book(folder, tokenizer):
    return GoldBook.open(folder / "rows.jsonl", tokenizer)


@pytest.fixture(scope="module")
def judge():
    with LocalJudge(workers=1) as judge:
        yield judge


def sequences(tokenizer, *samples, pad=0):
    """Tokens and lengths of (question, response), as the trainer's policy makes them."""
    texts = [tokenizer.render(messages(question)) + response for question, response in samples]
    ids = [tokenizer._tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
    tokens = np.full((len(ids), max(map(len, ids)) + 5), pad, dtype=np.int64)
    for row, one in zip(tokens, ids, strict=True):
        row[: len(one)] = one
    return {"tokens": tokens, "sequence_lengths": np.array([[len(one)] for one in ids], dtype=np.int64)}


SAMPLES = [
    ("How many?", boxed(5) + "<|im_end|>"),
    ("How many? And why?", boxed(5) + "<|im_end|>"),
    ("How many? And why?", boxed(6)),
    ("Which?", boxed("B. Paris") + "<|im_end|>"),
    (DECOMPOSED, boxed(7)),
    ("Which?", "<think>cut off"),
]
REWARDS = [[1.0], [0.0], [1.0], [1.0], [1.0], [0.0]]


def test_rewards_of_tokens(book, tokenizer, judge):
    found = Rewarder(book, tokenizer, judge.score)(**sequences(tokenizer, *SAMPLES))
    assert found["rewards"].dtype == np.float32 and found["rewards"].tolist() == REWARDS


def test_items_of_tokens(book, tokenizer):
    """What pads is no part of the response, whatever token it is, nor are special tokens."""
    inputs = sequences(tokenizer, *SAMPLES, pad=7)
    texts = tokens_to_texts(inputs["tokens"], inputs["sequence_lengths"], tokenizer)
    items = texts_to_items(texts, book, tokenizer)
    assert [item.response for item in items] == [text.removesuffix("<|im_end|>") for _, text in SAMPLES]
    assert [item.ground_truth for item in items] == [("5",), ("6",), ("6",), ("B",), ("7",), ("B",)]
    assert items[0].id == "sequence 0" and items[3].options == (("A", "Rome"), ("B", "Paris"))
    assert tokens_to_texts(inputs["tokens"], inputs["sequence_lengths"][:, 0], tokenizer) == texts


def test_rewards_of_sentences(book, tokenizer, judge):
    texts = [tokenizer.render(messages(question)) + response for question, response in SAMPLES]
    sentences = np.array([[text.encode()] for text in texts], dtype=object)
    assert Rewarder(book, tokenizer, judge.score)(sentences=sentences)["rewards"].tolist() == REWARDS


def test_a_prompt_that_opens_the_thinking(tokenizer, judge):
    book = GoldBook()
    book.add("Go.\n<think>\n", GoldBook.find(_one(), "x")[1], "row")
    inputs = np.array([[rb"Go." + b"\n<think>\n" + rb"so</think>\boxed{5}"]], dtype=object)
    assert Rewarder(book, tokenizer, judge.score)(sentences=inputs)["rewards"].tolist() == [[1.0]]


def _one():
    from reward_server.protocols.questions import read_question

    book = GoldBook()
    book.add("x", read_question(label()), "row")
    return book


def test_a_start_token_before_the_prompt(tmp_path, judge):
    byte_tokenizer(tmp_path, bos_token="<|im_start|>")
    tokenizer = Tokenizer(tmp_path)
    sentence = np.array([["<|im_start|>x" + boxed(5)]], dtype=object)
    assert Rewarder(_one(), tokenizer, judge.score)(sentences=sentence)["rewards"].tolist() == [[1.0]]


def test_an_unknown_prompt_is_named(book, tokenizer, judge):
    inputs = sequences(tokenizer, SAMPLES[0], ("Who?", boxed(5)))
    with pytest.raises(UnknownPrompt) as error:
        Rewarder(book, tokenizer, judge.score)(**inputs)
    assert all(part in str(error.value) for part in ("sequence 1", "Who?", "pytriton.data"))


def test_an_invalid_item_is_no_number(book, tokenizer, judge):
    inputs = sequences(tokenizer, SAMPLES[0], ("Bad?", boxed(5)))
    with pytest.raises(InvalidItems, match="1 of 2.*sequence 1.*bad_gold"):
        Rewarder(book, tokenizer, judge.score)(**inputs)
    stands_in = Rewarder(book, tokenizer, judge.score, invalid_as=-1.0)(**inputs)
    assert stands_in["rewards"].tolist() == [[1.0], [-1.0]]


GOOD = np.ones((2, 3), dtype=np.int64)


@pytest.mark.parametrize(
    ("inputs", "parts"),
    [
        ({}, ["tokens", "sentences"]),
        ({"tokens": GOOD}, ["sequence_lengths"]),
        ({"tokens": GOOD[0], "sequence_lengths": GOOD[:, :1]}, ["tokens", "[3]", "[B, S]"]),
        ({"tokens": GOOD * 0.5, "sequence_lengths": GOOD[:, :1]}, ["tokens", "float64"]),
        ({"tokens": GOOD, "sequence_lengths": GOOD}, ["sequence_lengths", "[2, 3]", "[2, 1]"]),
        ({"tokens": GOOD, "sequence_lengths": np.array([[1], [4]])}, ["sequence_lengths[1]", "4", "between 1 and 3"]),
        ({"tokens": GOOD, "sequence_lengths": np.array([[0], [3]])}, ["sequence_lengths[0]", "0"]),
        ({"sentences": np.array([b"x"])}, ["sentences", "[1]", "[B, 1]"]),
        ({"sentences": np.array([[b"\xff"]], dtype=object)}, ["sentences[0]", "UTF-8"]),
    ],
    ids=range(9),
)
def test_other_arrays_are_refused(book, tokenizer, judge, inputs, parts):
    with pytest.raises(BadInput) as error:
        Rewarder(book, tokenizer, judge.score)(**inputs)
    assert all(part in str(error.value) for part in parts), error.value


def test_what_is_no_tokenizer(tmp_path):
    with pytest.raises(ConfigError, match="no such folder"):
        Tokenizer(tmp_path / "none")
    with pytest.raises(ConfigError, match="cannot be read"):
        Tokenizer(tmp_path)


def spawn(*words, **variables):
    return subprocess.Popen(
        [sys.executable, "-m", "reward_server.protocols.aligner_server", *words],
        cwd=ROOT,
        env={**environment(), **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def refused(*words):
    """What the process says when it ends at once."""
    process = spawn("--url", "http://127.0.0.1:9", *words)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode in (1, 2) and "Traceback" not in stderr
    return stderr


def test_an_open_address_is_refused(folder):
    data = ("--data", str(folder / "rows.jsonl"), "--tokenizer", str(folder / "tokenizer"))
    assert "--allow-open" in refused("--host", "0.0.0.0", *data)
    assert "--port 0" in refused("--port", "0", *data)
    assert "--deadline-s" in refused("--deadline-s", "0", *data)


def test_without_pytriton_it_says_how_to_install_it(folder):
    try:
        import pytriton  # noqa: F401
    except ModuleNotFoundError:
        said = refused("--data", str(folder / "rows.jsonl"), "--tokenizer", str(folder / "tokenizer"))
        assert "pip install nvidia-pytriton" in said
    else:
        pytest.skip("PyTriton is installed")


@contextlib.contextmanager
def reward_model(folder, url, *words, **variables):
    """The port of a process that serves PyTriton."""
    port = free_port()
    arguments = ["--url", url, "--data", str(folder / "rows.jsonl"), "--tokenizer", str(folder / "tokenizer")]
    process = spawn(*arguments, "--port", str(port), *words, **variables)
    try:
        lines = iter(process.stdout.readline, "")
        assert any(line.startswith("NeMo-Aligner rewards on") for line in lines), process.stderr.read()[-2000:]
        yield port
    finally:
        stop(process, 30)
        process.stdout.close()
        process.stderr.close()


def test_pytriton_itself(folder, tokenizer):
    """Its own clients, as NeMo-Aligner uses them, against the process and a reward server with a token."""
    client = pytest.importorskip("pytriton.client", reason="PyTriton is not installed")
    if int(np.__version__.split(".")[0]) >= 2:
        pytest.skip("PyTriton reads wrong arrays under numpy 2")
    with (
        serving(token="secret") as (_, url),
        reward_model(folder, url, CROSSTHINK_TOKEN="secret") as port,
        client.FuturesModelClient(f"http://127.0.0.1:{port}", "reward_model", inference_timeout_s=60) as futures,
        client.ModelClient(f"http://127.0.0.1:{port}", "reward_model", inference_timeout_s=60) as model,
    ):
        inputs = sequences(tokenizer, *SAMPLES)
        waiting = [futures.infer_batch(**inputs) for _ in range(4)]
        assert [one.result()["rewards"].tolist() for one in waiting] == [REWARDS] * 4
        texts = [tokenizer.render(messages(question)) + response for question, response in SAMPLES]
        sentences = np.char.encode(np.array(texts)[:, None], "utf-8")
        assert model.infer_batch(sentences=sentences)["rewards"].tolist() == REWARDS
        for sample, part in ((("Who?", boxed(5)), "Who?"), (("Bad?", boxed(5)), "bad_gold")):
            with pytest.raises(client.exceptions.PyTritonClientInferenceServerError, match=part.replace("?", r"\?")):
                model.infer_batch(**sequences(tokenizer, sample))
        assert model.infer_batch(**inputs)["rewards"].tolist() == REWARDS
