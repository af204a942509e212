"""Generated input for tests that use the database.

Hypothesis calls plain functions, but a test of the database is a coroutine with its own transaction. Therefore the
examples are drawn beforehand, the same ones in every run, and are the parameters of the test.
"""

from typing import TypeVar

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.strategies import SearchStrategy

T = TypeVar("T")


def draw_examples(strategy: SearchStrategy[T], count: int) -> list[T]:
    """Return `count` examples, the same ones at every run."""
    examples: list[T] = []

    @settings(
        max_examples=count,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy)
    def draw(example: T) -> None:
        examples.append(example)

    draw()
    return examples
