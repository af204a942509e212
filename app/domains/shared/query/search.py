"""Search: what the parameter `q` finds, and the rank of what is found.

The rank says how an object is found; the best is 1:

    1   its code or its whole name is what was asked for, but for upper and lower case
    2   its code or its name begins with that: the first word begins one of them, and every other one a word of either
    3   every word of `q` begins a word of its code or name
    4   every word begins a word of its code, name or description
    5   likewise, but a word may instead be similar to one of these

A rank depends on nothing but the object, `q` and the vocabulary, so that lists can be walked in its order. What words
are, the database says (revision 0006): in no language and in all of them.
"""

from dataclasses import dataclass
from typing import Any

from sqlalchemy import (
    CTE,
    ColumnElement,
    FromClause,
    String,
    bindparam,
    case,
    column,
    func,
    literal_column,
    or_,
    select,
    text,
)
from sqlalchemy.dialects.postgresql import TSQUERY

from app.domains.shared.query.filters import Filter, Given, Parameter, TextParameter

Q = Parameter(
    "q",
    TextParameter,
    "What to search for in code, name and description: all of these words, their beginnings, or words similar to them.",
    String(),
)
EQUAL, LEAST = 1, 5

# The words of `q`, each once. The last one may be still being typed. Earlier ones of a single letter are taken as they
# are, and so are those after the sixteenth: their beginnings are everywhere.
_ASKED = """
    SELECT word, search_letters(word) AS letters, place, count(*) OVER () AS word_count,
           CASE WHEN place = count(*) OVER () OR place <= 16 AND word !~ '^[a-z0-9]$' THEN word || ':*' ELSE word END
             AS begun
      FROM (
        SELECT word, row_number() OVER (ORDER BY min(place)) AS place
          FROM string_to_table(search_asked(:filter_q), ' ') WITH ORDINALITY AS each (word, place)
         WHERE word <> ''
         GROUP BY word
      ) AS words
"""
_BEGUN = f"""
SELECT lower(:filter_q) AS whole, string_agg(word, ' ') AS asked,
       CAST(string_agg(CASE place WHEN 1 THEN '^' ELSE '' END || begun, ' & ') AS tsquery) AS starts,
       CAST(string_agg(begun, ' & ') AS tsquery) AS begun
  FROM ({_ASKED}) AS asked
"""  # noqa: S608 - of constants
# A word is similar to another when they share enough of their trigrams: half of them, or three tenths when no word of
# the vocabulary begins like it; and of several, only those that come near the best. The more words are asked for, the
# fewer each may have: each one of them is looked up in combination with those of all others.
_TOLERANT = f"""
SELECT CAST(string_agg('(' || concat_ws('|', begun, similar_words) || ')', ' & ') AS tsquery) AS tolerant,
       concat_ws(' ', string_agg(word, ' '), string_agg(replace(similar_words, '|', ' '), ' ')) AS words
  FROM (
    SELECT word, begun,
           CASE WHEN place <= 16 AND char_length(word) >= 4 AND word !~ '[0-9]' THEN (
             SELECT string_agg(similar_word, '|' ORDER BY similarity DESC, similar_word)
               FROM (
                 SELECT similar_word, similarity, max(similarity) OVER () AS best
                   FROM (
                     SELECT DISTINCT word AS similar_word, similarity(letters, asked.letters)
                       FROM search_vocabulary
                      WHERE letters % asked.letters
                        AND NOT starts_with(word, asked.word)
                   ) AS candidates
                  WHERE similarity >= CASE WHEN EXISTS (
                          SELECT FROM search_vocabulary AS known
                           WHERE known.word >= asked.word AND known.word < asked.word || chr(1114111)
                        ) THEN 0.5 ELSE 0.3 END
                  ORDER BY similarity DESC, similar_word
                  LIMIT greatest(2, 6 / asked.word_count)
               ) AS nearest
              WHERE similarity >= best - 0.2
           ) END AS similar_words
      FROM ({_ASKED}) AS asked
    OFFSET 0 -- or the planner looks into the vocabulary for each of the two columns
  ) AS asked
"""  # noqa: S608


def _cte(name: str, sql: str, **columns: Any) -> CTE:
    query = text(sql).bindparams(bindparam(Q.bound().key, type_=String))
    cte = query.columns(*(column(key, type_) for key, type_ in columns.items())).cte(name)
    return cte.prefix_with("MATERIALIZED")


# Two, so that nobody looks into the vocabulary before it is needed.
_PARTS = {
    "begun": _cte("begun", _BEGUN, whole=String, asked=String, starts=TSQUERY, begun=TSQUERY),
    "tolerant": _cte("tolerant", _TOLERANT, tolerant=TSQUERY, words=String),
}


def _query_column(name: str) -> ColumnElement[Any]:
    """Return a column of the one row that all of `q` makes."""
    part = next(part for part in _PARTS.values() if name in part.c)
    return select(part.c[name]).scalar_subquery()


def query_words(*, tolerant: ColumnElement[bool]) -> ColumnElement[str]:
    """Return the words of `q` between blanks, and if `tolerant` those similar to them."""
    return case((tolerant, _query_column("words")), else_=_query_column("asked"))


@dataclass(frozen=True, slots=True)
class Matching:
    """That the words of an object match `q`: what the index can tell, or, `walking`, what it is not asked."""

    words: str
    query: str

    def __call__(self, source: FromClause, *, walking: bool = False) -> ColumnElement[bool]:
        words = source.c[self.words]
        # The function behind the operator: it has no index.
        return (
            func.ts_match_vq(words, _query_column(self.query)) if walking else words.op("@@")(_query_column(self.query))
        )


# What makes out each rank after the first.
MATCHING = {
    2: Matching("search_name", "starts"),
    3: Matching("search_name", "begun"),
    4: Matching("search_text", "begun"),
    LEAST: Matching("search_text", "tolerant"),
}


def has_code(source: FromClause) -> ColumnElement[bool]:
    """Select the object whose code is `q`."""
    return func.lower(source.c.code) == _query_column("whole")


def has_name(source: FromClause) -> ColumnElement[bool]:
    """Select the objects whose name is `q`."""
    return func.lower(source.c.name) == _query_column("whole")


def is_equal(source: FromClause) -> ColumnElement[bool]:
    """Select the objects of the first rank; never NULL."""
    return func.coalesce(or_(has_code(source), has_name(source)), literal_column("false"))


def matches_search(source: FromClause, *, walking: bool = False) -> ColumnElement[bool]:
    """Select what `q` finds."""
    return or_(MATCHING[LEAST](source, walking=walking), has_code(source), has_name(source))


def search_rank(source: FromClause) -> ColumnElement[int]:
    """Return the rank of an object that is found."""
    if "rank" in source.c:
        return source.c.rank
    better: list[tuple[ColumnElement[bool], ColumnElement[int]]] = [
        (matches(source, walking=True), literal_column(str(rank))) for rank, matches in MATCHING.items() if rank < LEAST
    ]
    return case((is_equal(source), literal_column(str(EQUAL))), *better, else_=literal_column(str(LEAST)))


def _condition(source: FromClause, given: Given) -> ColumnElement[bool]:
    del given  # it is in what was asked
    return matches_search(source)


SEARCH = Filter((Q,), _condition)
