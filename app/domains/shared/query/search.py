"""Search: the condition of the parameter `q`, and the rank of a match.

Ranks, from the best:

    1   code or whole name equals `q`, ignoring case
    2   code or name begins with `q`: its first word begins code or name, every other word begins a word of either
    3   every word of `q` is a prefix of a word of code or name
    4   every word of `q` is a prefix of a word of code, name or description
    5   like 4, but a word of `q` may instead be similar to a word of the object

A rank depends only on the object, `q` and the words of the collections that the caller may read, so a list can be paged
in the order of ranks. Other words must not count anywhere, not even in an estimate: a caller could compare responses to
read them. Functions of the database (revision 0006) split text into words, without rules of any language.
"""

from dataclasses import dataclass
from typing import Any

from sqlalchemy import (
    ARRAY,
    CTE,
    BindParameter,
    ColumnElement,
    FromClause,
    String,
    Text,
    and_,
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

from app.domains.shared.models import folded, folded_key
from app.domains.shared.query.filters import Filter, Operands, Parameter, TextParameter

Q = Parameter(
    "q",
    TextParameter,
    "Only objects with each of these words in code, name or description: the word itself, a word that begins with it, "
    "or a similar word.",
    String(),
)
EQUAL, SIMILAR = 1, 5

# The distinct words of `q`, as prefixes. Single letters and words after the sixteenth match whole words only, as too
# many words have such a prefix; the last word is always a prefix, because the client may still be typing it.
_WORDS = """
    SELECT word, search_letters(word) AS letters, place, count(*) OVER () AS word_count,
           CASE WHEN place = count(*) OVER () OR place <= 16 AND word !~ '^[a-z0-9]$' THEN word || ':*' ELSE word END
             AS prefix
      FROM (
        SELECT word, row_number() OVER (ORDER BY min(place)) AS place
          FROM string_to_table(search_asked(:filter_q), ' ') WITH ORDINALITY AS each (word, place)
         WHERE word <> ''
         GROUP BY word
      ) AS words
"""
_PREFIX_QUERIES = f"""
SELECT fold(:filter_q) AS whole, fold_key(:filter_q) AS key, string_agg(word, ' ') AS words,
       CAST(string_agg(CASE place WHEN 1 THEN '^' ELSE '' END || prefix, ' & ') AS tsquery) AS starts,
       CAST(string_agg(prefix, ' & ') AS tsquery) AS prefixes
  FROM ({_WORDS}) AS query_word
"""  # noqa: S608 - all parts are constants
# The index of trigrams collects every word that shares enough trigrams with the word of `q`, and each is compared. So a
# sample of the vocabulary estimates their number, and the index serves words of `q` while it compares at most
# `MAX_COMPARED` words for all of them, those with the fewest first. Each other word of `q` is compared with the oldest
# words. The sample has rows from pages at equal distances in the table: a range of ids may have gaps of any size.
MAX_CANDIDATES, MAX_COMPARED = 1000, 10_000
# Rows of the sample; rows of a page that may belong to it, which pages of the longest words have; rows of a page of
# ordinary words. Longer words count for more, as they take longer to compare.
SAMPLE_ROWS, _SAMPLED_OF_PAGE, _ROWS_OF_PAGE = 512, 40, 100
_COUNTS = f"""
    SELECT page_count, least({SAMPLE_ROWS}, page_count * {_SAMPLED_OF_PAGE}) AS row_count
      FROM (SELECT pg_relation_size('search_vocabulary') / CAST(current_setting('block_size') AS integer)
                     AS page_count) AS pages
"""  # noqa: S608
# The row identifiers differ, and cover the pages of the table and the places within a page evenly.
_SAMPLE = f"""
    SELECT letters,
           (SELECT CAST(page_count AS double precision) * {_ROWS_OF_PAGE} / row_count FROM counts) AS represented
      FROM search_vocabulary AS sampled
     WHERE ctid = ANY(ARRAY(
        SELECT CAST(format('(%s,%s)', number * page_count / row_count, number * 7 % {_SAMPLED_OF_PAGE} + 1) AS tid)
          FROM counts CROSS JOIN generate_series(0, row_count - 1) AS number))
       AND collection = ANY(:readable)
"""  # noqa: S608
# The number of words that the index finds. A word of n letters has n + 1 trigrams, and the index finds words that have
# three tenths of those of the word of `q`.
_COMPARED = """
    SELECT coalesce(sum(represented), 0)
      FROM (SELECT letters, represented, similarity(letters, query_word.letters) FROM sample) AS compared
     WHERE similarity * (char_length(letters) + char_length(query_word.letters) + 2) / (1 + similarity)
           >= 0.3 * (char_length(query_word.letters) + 1)
"""
# A row number instead of LIMIT: with LIMIT, the planner expects to find enough words soon by scanning the table. The
# planner considers `%` cheap, and would rather scan the table than read many of its pages through the index. It
# considers `to_tsvector` expensive, so it chooses the index, which leaves few rows; that condition is always true.
_CANDIDATES = f"""
    SELECT word, letters
      FROM (SELECT word, letters, row_number() OVER () AS number
              FROM search_vocabulary
             WHERE letters % query_word.letters AND NOT query_word.is_common
               AND collection = ANY(:readable)
               AND to_tsvector('simple', letters) IS NOT NULL) AS indexed
     WHERE number <= {MAX_CANDIDATES}
    UNION ALL
    SELECT word, letters
      FROM (SELECT word, letters FROM search_vocabulary AS aged
             WHERE query_word.is_common AND collection = ANY(:readable)
             ORDER BY id LIMIT {MAX_COMPARED} / query_word.word_count) AS oldest
     WHERE letters % query_word.letters
"""  # noqa: S608
# Two words are similar if they share enough trigrams: half of them, or three tenths if no word that the caller may read
# begins with the word of `q`. Only the similar words near the best one are kept. The more words `q` has, the fewer
# similar words each may have, because the index is searched for every combination.
_TOLERANT_QUERY = f"""
  WITH counts AS MATERIALIZED ({_COUNTS}), sample AS MATERIALIZED ({_SAMPLE})
SELECT CAST(string_agg('(' || concat_ws('|', prefix, similar_words) || ')', ' & ') AS tsquery) AS tolerant,
       concat_ws(' ', string_agg(word, ' '), string_agg(replace(similar_words, '|', ' '), ' ')) AS tolerant_words
  FROM (
    SELECT word, prefix,
           CASE WHEN is_looked_up THEN (
             SELECT string_agg(similar_word, '|' ORDER BY similarity DESC, similar_word)
               FROM (
                 SELECT similar_word, similarity, max(similarity) OVER () AS best
                   FROM (
                     SELECT DISTINCT word AS similar_word, similarity(letters, query_word.letters)
                       FROM ({_CANDIDATES}) AS candidates
                      WHERE NOT starts_with(word, query_word.word)
                   ) AS different
                  WHERE similarity >= CASE WHEN EXISTS (
                          SELECT FROM search_vocabulary AS known
                           WHERE known.word >= query_word.word AND known.word < query_word.word || chr(1114111)
                             AND collection = ANY(:readable)
                        ) THEN 0.5 ELSE 0.3 END
                  ORDER BY similarity DESC, similar_word
                  LIMIT greatest(2, 6 / query_word.word_count)
               ) AS nearest
              WHERE similarity >= best - 0.2
           ) END AS similar_words
      FROM (
        SELECT query_word.*, sum(compared) OVER (ORDER BY compared, place) > {MAX_COMPARED} AS is_common
          FROM (SELECT query_word.*, CASE WHEN is_looked_up THEN ({_COMPARED}) ELSE 0 END AS compared
                  FROM (SELECT *, place <= 16 AND char_length(word) >= 4 AND word !~ '[0-9]' AS is_looked_up
                          FROM ({_WORDS}) AS query_word) AS query_word) AS query_word
        OFFSET 0 -- optimiser fence: else the sample is compared once for each use of the result
      ) AS query_word
    OFFSET 0 -- optimiser fence: else the vocabulary is searched once for each of the two columns
  ) AS query_word
"""  # noqa: S608


# The names of the collections that the caller may read.
_READABLE = bindparam("readable", type_=ARRAY(Text))


def _cte(name: str, sql: str, *parameters: BindParameter[Any], **columns: Any) -> CTE:
    query = text(sql).bindparams(bindparam(Q.bind().key, type_=String), *parameters)
    cte = query.columns(*(column(key, type_) for key, type_ in columns.items())).cte(name)
    return cte.prefix_with("MATERIALIZED")


# Two CTEs, so that the vocabulary is not searched before similar words are needed.
_QUERY_CTES = {
    "prefixes": _cte("prefixes", _PREFIX_QUERIES, whole=Text, key=Text, words=String, starts=TSQUERY, prefixes=TSQUERY),
    "tolerant": _cte("tolerant", _TOLERANT_QUERY, _READABLE, tolerant=TSQUERY, tolerant_words=String),
}


def _query_column(name: str) -> ColumnElement[Any]:
    """Return a column of the single row that is computed from `q`."""
    part = next(part for part in _QUERY_CTES.values() if name in part.c)
    return select(part.c[name]).scalar_subquery()


def query_words(*, tolerant: ColumnElement[bool]) -> ColumnElement[str]:
    """Return the words of `q` and, if `tolerant`, the words similar to them, separated by blanks."""
    return case((tolerant, _query_column("tolerant_words")), else_=_query_column("words"))


@dataclass(frozen=True, slots=True)
class Matching:
    """The condition that the words of an object match `q`.

    `use_index=False` calls the function behind the operator, which no index supports.
    """

    words: str
    query: str

    def __call__(self, source: FromClause, *, use_index: bool = True) -> ColumnElement[bool]:
        words, query = source.c[self.words], _query_column(self.query)
        return words.op("@@")(query) if use_index else func.ts_match_vq(words, query)


# The condition of each rank after the first.
MATCHING = {
    2: Matching("search_name", "starts"),
    3: Matching("search_name", "prefixes"),
    4: Matching("search_text", "prefixes"),
    SIMILAR: Matching("search_text", "tolerant"),
}


def has_code(source: FromClause) -> ColumnElement[bool]:
    """Return the condition that the code equals `q`, ignoring case; NULL without a code."""
    return folded(source.c.code) == _query_column("whole")


def has_name(source: FromClause) -> ColumnElement[bool]:
    """Return the condition that the name equals `q`, ignoring case."""
    # The index is over the key, which is only the beginning of a long name.
    return and_(folded_key(source.c.name) == _query_column("key"), folded(source.c.name) == _query_column("whole"))


def is_equal(source: FromClause) -> ColumnElement[bool]:
    """Return the condition of the first rank; never NULL."""
    return func.coalesce(or_(has_code(source), has_name(source)), literal_column("false"))


def matches_search(source: FromClause, *, use_index: bool = True) -> ColumnElement[bool]:
    """Return the condition that an object matches `q`; see `Matching` for `use_index`."""
    return or_(MATCHING[SIMILAR](source, use_index=use_index), has_code(source), has_name(source))


def search_rank(source: FromClause) -> ColumnElement[int]:
    """Return the rank of a matching object."""
    if "rank" in source.c:
        return source.c.rank
    better: list[tuple[ColumnElement[bool], ColumnElement[int]]] = [
        (matches(source, use_index=False), literal_column(str(rank)))
        for rank, matches in MATCHING.items()
        if rank < SIMILAR
    ]
    return case((is_equal(source), literal_column(str(EQUAL))), *better, else_=literal_column(str(SIMILAR)))


def _condition(source: FromClause, operands: Operands) -> ColumnElement[bool]:
    del operands  # the CTEs read the bind parameters `filter_q` and `readable` themselves
    return matches_search(source)


SEARCH = Filter((Q,), _condition)
