"""How a loss is averaged over the tokens of an optimizer step: one weight for every response token.

The weights hold global counts, so that the weighted sum over tokens is the average however the step is split.
"""

from __future__ import annotations

from collections.abc import Sequence


def sequence_mean_weights(response_lengths: Sequence[int], counted: Sequence[bool]) -> list[float]:
    """Each response's token weight under the mean over responses of the mean over tokens; 0 where not counted.

    The paper's form (Eq. 1).
    """
    responses = sum(counted)
    return [1.0 / (responses * n) if ok else 0.0 for n, ok in zip(response_lengths, counted, strict=True)]


def token_mean_weights(response_lengths: Sequence[int], counted: Sequence[bool]) -> list[float]:
    """Each response's token weight under the mean over all tokens; 0 where not counted.

    DAPO (arXiv 2503.14476, Eq. 8).
    """
    tokens = sum(n for n, ok in zip(response_lengths, counted, strict=True) if ok)
    return [1.0 / tokens if ok else 0.0 for ok in counted]


def constant_weights(counted: Sequence[bool], max_response_tokens: int) -> list[float]:
    """Each response's token weight under the sum over tokens by responses × longest response; 0 where not counted.

    Dr. GRPO (arXiv 2503.20783, section 3.2): a token weighs the same in short and in long responses, and in every step.
    """
    responses = sum(counted)
    return [1.0 / (responses * max_response_tokens) if ok else 0.0 for ok in counted]


def token_weights(
    average: str, response_lengths: Sequence[int], counted: Sequence[bool], max_response_tokens: int
) -> list[float]:
    """The weights that `algorithm.average` names: sequence, token or constant."""
    if average == "sequence":
        return sequence_mean_weights(response_lengths, counted)
    if average == "token":
        return token_mean_weights(response_lengths, counted)
    assert average == "constant", average
    return constant_weights(counted, max_response_tokens)
