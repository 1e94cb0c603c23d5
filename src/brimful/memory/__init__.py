"""Memory budgets and their measurement."""
