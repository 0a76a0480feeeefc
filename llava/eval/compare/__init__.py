"""`llava eval` over a grid of methods and budgets, and the tables that put them side by side."""
