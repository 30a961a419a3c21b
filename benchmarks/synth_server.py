"""The endpoint of `benchmarks/synth.py`: `python synth_server.py PORT_FILE`. Always right, and as fast as may be.

One process, one thread, no framework: on a machine of two cores the endpoint must take little from what is measured.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import orjson

sys.path.append(str(Path(__file__).parents[1] / "tests"))
from synth_brain import brain
from synth_endpoint import RIGHT, Chat


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """One connection, request after request."""
    try:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            fields = dict(line.lower().partition(b":")[::2] for line in head.split(b"\r\n")[1:-2])
            body = await reader.readexactly(int(fields.get(b"content-length", b"0")))
            answer = completion(orjson.loads(body)) if body else {"object": "list", "data": [{"id": "fast"}]}
            said = orjson.dumps(answer)
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(said))
            writer.write(said)
            await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        writer.close()


def completion(asked: dict) -> dict:
    """The right answer."""
    text = brain(Chat(asked["messages"], asked.get("seed")), RIGHT)
    message = {"role": "assistant", "content": text}
    prompt, written = len(asked["messages"][0]["content"]) // 4, len(text) // 4
    return {
        "id": "x",
        "object": "chat.completion",
        "created": 0,
        "model": asked["model"],
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": prompt, "completion_tokens": written, "total_tokens": prompt + written},
    }


async def main(port_file: Path) -> None:
    """Serve until somebody ends this process."""
    server = await asyncio.start_server(serve, "127.0.0.1", 0, limit=1 << 22, backlog=512)
    aside = port_file.with_suffix(".tmp")
    aside.write_text(str(server.sockets[0].getsockname()[1]))
    aside.rename(port_file)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
