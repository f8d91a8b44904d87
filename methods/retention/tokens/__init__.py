"""Policies over single tokens: one budget, and what stays within it.

`Budgeted` counts the budget and puts tokens in order. `Scored` keeps the best of a `Scorer`, of
which every leaf is one formula; the others have a structure of their own.
"""
