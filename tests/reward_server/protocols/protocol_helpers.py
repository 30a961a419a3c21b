"""A server with one protocol's routes in its own process, and what a trainer's row holds."""

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path

import httpx

from crossthink.procs import stop

ROOT = Path(__file__).resolve().parents[3]

SERVE = """
import contextlib, importlib, socket, sys
import uvicorn
from fastapi import FastAPI
from conf.reward import ServeRewardConfig
from crossthink.procs import die_with_parent
from reward_server.service import Refused, Service
from reward_server.wire import AsciiJson

die_with_parent()
protocol, config = sys.argv[1], eval(sys.argv[2])
service = Service(ServeRewardConfig(workers=1, **config))

@contextlib.asynccontextmanager
async def lifespan(app):
    async with service:
        yield

app = FastAPI(lifespan=lifespan)
app.add_exception_handler(Refused, lambda request, refusal: AsciiJson({"detail": refusal.detail}, refusal.status))
app.include_router(importlib.import_module(f"reward_server.protocols.{protocol}").router(service))
listener = socket.create_server(("127.0.0.1", 0))
print(f"http://127.0.0.1:{listener.getsockname()[1]}", flush=True)
uvicorn.Server(uvicorn.Config(app, log_level="warning")).run(sockets=[listener])
"""


@contextlib.contextmanager
def serving_router(protocol, **config):
    """The address of a server with the routes of one protocol."""
    process = subprocess.Popen(
        [sys.executable, "-c", SERVE, protocol, repr(config)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    try:
        yield process.stdout.readline().strip()
    finally:
        stop(process)
        process.stdout.close()


def post(url, path, body):
    """The reply to a JSON body."""
    return httpx.post(
        url + path, content=json.dumps(body).encode(), headers={"content-type": "application/json"}, timeout=60
    )


def label(kind="math", gold=("5",), options=None, **fields):
    """A reward_item as our exports write it."""
    return json.dumps({"kind": kind, "ground_truth": list(gold), "options": options, **fields}, ensure_ascii=False)


def boxed(answer, thought="so"):
    """A response that keeps the format."""
    return f"<think>{thought}</think> It is \\boxed{{{answer}}}."


def environment():
    """What a child Python needs to import the project."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))}


TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def byte_tokenizer(folder, normal=False, **named):
    """A tokenizer of bytes with a chat template, saved in a folder; `normal`: it makes NFC of what it is given."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = ["<|im_start|>", "<|im_end|>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = Tokenizer(models.BPE(vocab={letter: n for n, letter in enumerate(letters)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    if normal:
        tokenizer.normalizer = normalizers.NFC()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|im_start|>", **named
    )
    fast.chat_template = TEMPLATE
    fast.save_pretrained(folder)
    return fast
