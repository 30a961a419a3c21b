"""Fixtures of the reward server's tests."""

import pytest
from reward_helpers import serving


@pytest.fixture(scope="session")
def server():
    """One server for the tests that do it no harm."""
    with serving(max_items=50, max_body_mb=32, max_response_chars=12_000_000) as (_, url):
        yield url
