"""Graphs made of graphs: what verbs are made of, and in `verbs` one file for each; Keras is not imported by importing them."""

from graftwork.compose import verbs
from graftwork.compose.base import VERBS, Composed, Member, Verb, get, verb

__all__ = ["VERBS", "Composed", "Member", "Verb", "get", "verb", "verbs"]
