"""The comparison of two sizes can fail."""

import pytest

from tests.growth import assert_proportionate, assert_proportionate_async


def quadratic(size: int) -> int:
    return sum(1 for _ in range(size) for _ in range(size))


def linear(size: int) -> int:
    return sum(1 for _ in range(size))


async def linear_later(size: int) -> int:
    return linear(size)


async def test_linear_work_passes() -> None:
    assert_proportionate(linear, 1_000_000)
    await assert_proportionate_async(linear_later, 1_000_000)


def test_quadratic_work_fails() -> None:
    with pytest.raises(pytest.fail.Exception, match="ten times the input"):
        assert_proportionate(quadratic, 500)
