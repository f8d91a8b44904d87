"""Retention policies for single tokens under a budget.

`Budgeted` is the base class: it counts the budget and sorts tokens. `Scored` keeps the tokens with
the best scores of a `Scorer`; each scorer is one formula. The other policies extend `Budgeted`.
"""
