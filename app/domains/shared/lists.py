"""Declarations of lists, for the `lists.py` of domains.

A declaration has filters, sorts and groupings. Each function creates those of one field or one kind of links.
"""

from app.domains.shared.models import URL_LENGTH, Criticality
from app.domains.shared.query.field_filters import choice, flag, identifier, instant, number, ranked_choice, text
from app.domains.shared.query.groups import field_groups, link_groups, reference_groups
from app.domains.shared.query.link_filters import links
from app.domains.shared.query.orders import OBJECT_SORTS, rank_sort, text_sort
from app.domains.shared.query.pages import ListDeclaration, ListQuery, list_query, object_filters
from app.domains.shared.query.parameters import list_parameters, representation_parameters
from app.domains.shared.query.representations import RepresentationQuery
from app.domains.shared.query.tree_filters import subtree, tree
from app.domains.shared.reading.stats import StatsQuery, stats_parameters

__all__ = [
    "OBJECT_SORTS",
    "URL_LENGTH",
    "Criticality",
    "ListDeclaration",
    "ListQuery",
    "RepresentationQuery",
    "StatsQuery",
    "choice",
    "field_groups",
    "flag",
    "identifier",
    "instant",
    "link_groups",
    "links",
    "list_parameters",
    "list_query",
    "number",
    "object_filters",
    "rank_sort",
    "ranked_choice",
    "reference_groups",
    "representation_parameters",
    "stats_parameters",
    "subtree",
    "text",
    "text_sort",
    "tree",
]
