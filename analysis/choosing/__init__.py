"""Choosing a method: frontiers, orders, constraints, recommendations, equal memory, budgets."""
