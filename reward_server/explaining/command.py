"""`crossthink serve-reward --explain`: why one item got its verdict, on a terminal and without a server."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from conf.reward import ServeRewardConfig
from crossthink.errors import ConfigError
from reward_server.verdicts import Item

if TYPE_CHECKING:
    from reward_server.pool import WorkerPool

FLAG = "--explain"
USAGE = """Explain the verdict of one item and stop, without a server:
  --explain FILE             the item as a JSON object, as in /v1/score; the id may be left out
  --explain -                the same from stdin
  --explain FIELD=VALUE ...  the item in words: kind= response= ground_truth= (again for each that is right)
                             options='{"A": "Rome", "B": "Paris"}' finish_reason=length think_prefilled=true
                             source= response_tokens=
match=, shaping.* and deadline_s= count as they do for the server.
"""
"""What `--help` says of the flag."""

_FIELDS = frozenset(Item.__dataclass_fields__)
_JSON = ("options", "think_prefilled", "response_tokens")


def split(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """(words of the configuration, words that give the item) of a command line with the flag."""
    rest = list(words)
    at = rest.index(FLAG)
    rest.pop(at)
    given = [rest.pop(at)] if at < len(rest) and "=" not in rest[at] and not rest[at].startswith("--") else []
    given += [word for word in rest if word.partition("=")[0] in _FIELDS]
    return [word for word in rest if word.partition("=")[0] not in _FIELDS], given


def run(config: ServeRewardConfig, given: Sequence[str]) -> None:
    """Print the steps to the verdict of the item that the words give.

    Args:
        config: the rules; nothing is served.
        given: the second part of what `split` returns.

    Raises:
        ConfigError: impossible rules, or an item that cannot be read: says where and why.
    """
    import asyncio

    from reward_server.serve import check as check_config
    from reward_server.service import Refused, check_item

    check_config(config)
    where, obj = _read(given)
    try:
        item = Item.from_json({"id": "item", **obj} if isinstance(obj, dict) else obj)
        check_item(item, config)
    except (ValueError, Refused) as error:
        raise ConfigError(f"{where}: {error}") from error
    _print(asyncio.run(_explain(config, item)))


async def _explain(config: ServeRewardConfig, item: Item) -> dict[str, Any]:
    from reward_server.explain import explain

    slow = _WhenAsked(config)
    try:
        return await explain(item, config.match, slow, config.shaping)
    finally:
        await slow.close()


class _WhenAsked:
    """Slow math whose worker starts with the first question: most items need none."""

    def __init__(self, config: ServeRewardConfig):
        self._config = config
        self._pool: WorkerPool | None = None

    async def gold_is_good(self, gold: str) -> Any:
        return await (await self._started()).gold_is_good(gold)

    async def any_equal(self, golds: tuple[str, ...], answer: str) -> Any:
        return await (await self._started()).any_equal(golds, answer)

    async def close(self) -> None:
        if self._pool is not None:
            await self._pool.__aexit__(None, None, None)

    async def _started(self) -> WorkerPool:
        if self._pool is None:
            from reward_server.pool import WorkerPool

            config = self._config
            pool = WorkerPool(1, config.deadline_s, config.worker_memory_mb, config.warm_up)
            self._pool = await pool.__aenter__()
        return self._pool


def _read(given: Sequence[str]) -> tuple[str, Any]:
    """(where it stands, the item as JSON has it)."""
    files = [word for word in given if "=" not in word]
    if files and len(given) > 1:
        raise ConfigError(f"{FLAG} takes a file or words such as {given[1].partition('=')[0]}=, not both.")
    if given and not files:
        return FLAG, _from_words(given)
    name = files[0] if files else "-"
    if name == "-":
        if not files and sys.stdin.isatty():
            raise ConfigError(f"{FLAG} needs an item: a file, - for stdin, or kind= response= ground_truth=.")
        return "stdin", _parse("stdin", sys.stdin.buffer.read())
    try:
        with open(name, "rb") as handle:
            return name, _parse(name, handle.read())
    except OSError as error:
        raise ConfigError(f"{FLAG} {name} cannot be read: {error.strerror}.") from error


def _parse(where: str, text: bytes | str) -> Any:
    import json

    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{where} is not JSON: {error}.") from error


def _from_words(words: Sequence[str]) -> dict[str, Any]:
    item: dict[str, Any] = {}
    golds: list[str] = []
    for word in words:
        field, _, value = word.partition("=")
        if field == "ground_truth":
            golds.append(value)
        elif field in item:
            raise ConfigError(f"{field}= is given twice.")
        else:
            item[field] = _value(value) if field in _JSON else value
    return {**item, "ground_truth": golds} if golds else item


def _value(word: str) -> Any:
    import json

    try:
        return json.loads(word)
    except ValueError:
        return word  # a text, which the item refuses, naming the field and what is allowed


def _print(explanation: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from reward_server.explaining.steps import BAD, BROKEN, DIFFERENT, EQUAL, GOOD, KEPT, visible
    from reward_server.verdicts import CORRECT, STATUSES

    colours = dict.fromkeys((KEPT, GOOD, EQUAL, CORRECT), "green")
    colours.update(dict.fromkeys((BROKEN, BAD, DIFFERENT, *(one for one in STATUSES if one != CORRECT)), "red"))
    verdict = explanation["verdict"]
    bits = ", ".join(f"{name} {'none' if verdict[name] is None else verdict[name]}" for name in ("accuracy", "format"))
    reward = "none" if verdict["reward"] is None else f"{verdict['reward']:g}"
    answer = "none" if verdict["extracted"] is None else visible(verdict["extracted"])
    head = f"{verdict['status']}: reward {reward} ({bits}), answer {answer}"
    rules = f"match {explanation['match']}, rules {explanation['rules_hash']}"
    console = Console()
    if not console.is_terminal:
        print(head, rules, sep="\n")
        for step in explanation["steps"]:
            print(f"{step['result']:10} {step['step']:8} {step['part']:15} {step['why']}")
        return
    told: set[str] = set()
    table = Table.grid(padding=(0, 2))
    for _ in range(3):
        table.add_column(overflow="fold")
    for step in explanation["steps"]:
        why = Text(step["why"])
        if colours.get(step["result"]) == "red" and step["rule"] not in told:
            told.add(step["rule"])
            why.append(f"\nRule: {step['rule']} ({step['source']})", style="dim")
        table.add_row(
            Text(step["result"], style=colours.get(step["result"], "dim")), Text(f"{step['step']}: {step['part']}"), why
        )
    console.print(Text(head, style=f"bold {colours[verdict['status']]}"), Text(rules, style="dim"), table, sep="\n")
