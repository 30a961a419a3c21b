"""The stream of prompts: a blend's rows, rendered and tokenized, resumable by one number."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from transformers import PreTrainedTokenizerBase

from crossthink.errors import UserError
from data_prep.blend_sampler import BlendSampler
from data_prep.pool import Pool
from data_prep.rows import PoolRow
from recipes.rl.batch import Prompt

PASSED_OVER_LIMIT = 10_000  # draws in a row; a pool of overlong prompts must not spin for ever


def make_prompt(row: PoolRow, tokenizer: PreTrainedTokenizerBase) -> Prompt:
    """Render a row's chat messages with the tokenizer's own template, up to where the response begins."""
    text = tokenizer.apply_chat_template(row.prompt, tokenize=False, add_generation_prompt=True)
    return Prompt(row, text, tuple(tokenizer(text, add_special_tokens=False)["input_ids"]))


class PromptStream:
    """Draws prompts from a pool under a blend; passes over those longer than `max_prompt_tokens` and counts them."""

    def __init__(
        self,
        pool: Pool,
        sampler: BlendSampler,
        tokenizer: PreTrainedTokenizerBase,
        max_prompt_tokens: int,
    ) -> None:
        self.pool = pool
        self.sampler = sampler
        self.tokenizer = tokenizer
        self.max_prompt_tokens = max_prompt_tokens
        self.passed_over = 0

    def draw(self, count: int) -> list[Prompt]:
        """The next `count` prompts.

        Raises:
            UserError: too many draws in a row were over the limit.
        """
        prompts: list[Prompt] = []
        refused = 0
        while len(prompts) < count:
            place = self.sampler.draw(1)[0]
            prompt = make_prompt(self.pool.row(place.source, place.index), self.tokenizer)
            if len(prompt.token_ids) <= self.max_prompt_tokens:
                prompts.append(prompt)
                refused = 0
                continue
            self.passed_over += 1
            refused += 1
            if refused == PASSED_OVER_LIMIT:
                raise UserError(
                    f"{refused} prompts in a row of {self.pool.path} are longer than max_prompt_tokens="
                    f"{self.max_prompt_tokens} (the last has {len(prompt.token_ids)}). Raise it or choose other data."
                )
        return prompts

    def state_dict(self) -> dict[str, Any]:
        """JSON-ready state."""
        return {"sampler": self.sampler.state_dict(), "passed_over": self.passed_over}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state` was taken.

        Raises:
            UserError: it belongs to another pool, blend or seed.
        """
        self.sampler.load_state_dict(state["sampler"])
        self.passed_over = state["passed_over"]
