"""Reads: the statements that return objects as finished JSON, histories, statistics, trees and whole lists.

`documents` and `json_text` are part of the fast path. For `shared.lists`, `service` and `trees`, and for `writing`,
which returns what it wrote.
"""
