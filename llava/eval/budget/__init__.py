"""Which budget to take: a ladder of budgets, chosen on half of the pictures and confirmed on the other half."""
