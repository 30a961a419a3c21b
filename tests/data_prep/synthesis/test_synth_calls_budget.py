"""Budgets: never passed, however the calls overlap, and never given up while a call under way may leave enough."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crossthink.errors import EXIT_RESUMABLE, ConfigError
from data_prep.synthesis.calls.budget import Budget, BudgetReached, Planned, Prices, estimate, rough_tokens
from data_prep.synthesis.calls.request import Usage

pytestmark = pytest.mark.timeout(60)
FREE = Prices(0, 0)
# (prompt reserved, completion reserved, share of each that is used, turns of the loop that it takes)
CALL = st.tuples(st.integers(0, 50), st.integers(0, 50), st.floats(0, 1), st.integers(0, 5))


@settings(max_examples=200, deadline=None)
@given(
    calls=st.lists(CALL, max_size=30),
    tokens=st.none() | st.integers(0, 400),
    cost=st.none() | st.floats(0, 0.01),
    spent=st.integers(0, 100),
)
def test_spending_never_passes_the_budget(calls, tokens, cost, spent) -> None:
    prices = Prices(10.0, 40.0)
    before = Usage(1, spent, 0)
    if tokens is not None and spent > tokens or cost is not None and prices.cost(before) > cost:
        before = Usage()

    async def run() -> None:
        budget = Budget(tokens, cost, prices, before)
        under_way = made = 0
        taken = before

        async def call(prompt: int, completion: int, share: float, turns: int) -> bool:
            nonlocal under_way, made, taken
            most = Usage(1, prompt, completion)
            try:
                async with budget.reserved(most) as reservation:
                    under_way += 1
                    for _ in range(turns):
                        await asyncio.sleep(0)
                    under_way -= 1
                    used = Usage(1, int(prompt * share), int(completion * share))
                    reservation.used, taken, made = used, taken + used, made + 1
            except BudgetReached as error:
                assert error.exit_code == EXIT_RESUMABLE
                after = budget.spent + most
                over_tokens = tokens is not None and after.tokens > tokens
                assert over_tokens or (cost is not None and prices.cost(after) > cost)
                return False
            assert tokens is None or budget.spent.tokens <= tokens
            assert cost is None or prices.cost(budget.spent) <= cost
            return True

        answered = await asyncio.gather(*(call(*one) for one in calls))  # ends: nobody waits for ever
        assert budget.spent == taken and sum(answered) == made and under_way == 0
        if tokens is None and cost is None:
            assert all(answered)

    asyncio.run(run())


def test_what_a_call_leaves_is_waited_for() -> None:
    async def run() -> list[str]:
        budget, order = Budget(100, None, FREE, Usage()), []

        async def call(name: str, used: int) -> None:
            async with budget.reserved(Usage(1, 0, 80)) as reservation:
                order.append(name)
                await asyncio.sleep(0.01)
                reservation.used = Usage(1, 0, used)

        await asyncio.gather(call("a", 10), call("b", 10), call("c", 10))
        assert budget.spent == Usage(3, 0, 30)
        with pytest.raises(BudgetReached, match=r"budget\.tokens=100: 30 are spent, the next call may take 80"):
            await call("d", 1)
        return order

    assert asyncio.run(run()) == ["a", "b", "c"]


def test_a_call_that_fails_costs_nothing() -> None:
    async def run() -> None:
        budget = Budget(None, 1.0, Prices(0, 10_000), Usage())
        with pytest.raises(ZeroDivisionError):
            async with budget.reserved(Usage(1, 0, 100)):
                raise ZeroDivisionError
        async with budget.reserved(Usage(1, 0, 100)) as reservation:
            reservation.used = reservation.most
        with pytest.raises(BudgetReached, match=r"budget\.cost=1: 1\.0000 is spent, the next call may cost 0\.0100"):
            async with budget.reserved(Usage(1, 0, 1)):
                pass

    asyncio.run(run())


@pytest.mark.parametrize(
    ("tokens", "cost", "prices", "said"),
    [
        (-1, None, FREE, r"budget\.tokens=-1 must be 0 or more"),
        (None, -0.5, Prices(1, 1), r"budget\.cost=-0\.5 must be 0 or more"),
        (None, 5.0, FREE, r"budget\.cost=5\.0 needs the prices"),
        (None, None, Prices(-1, 1), "must be 0 or more"),
    ],
)
def test_what_is_no_budget(tokens, cost, prices, said) -> None:
    with pytest.raises(ConfigError, match=said):
        Budget(tokens, cost, prices, Usage())


def test_an_estimate() -> None:
    plans = [Planned("question", 1.5, 100, 20), Planned("solution", 8, 50, 1000), Planned("question", 1, 0, 0)]
    found = estimate(3, plans, Prices(2.0, 8.0))
    assert found.by_purpose == {"question": Usage(8, 500, 100), "solution": Usage(24, 1200, 24_000)}
    assert found.total == Usage(32, 1700, 24_100)
    assert found.cost == pytest.approx((1700 * 2 + 24_100 * 8) / 1e6)
    assert (rough_tokens(0), rough_tokens(1), rough_tokens(9)) == (0, 1, 3)
