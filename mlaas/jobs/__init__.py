"""Jobs: what is run for users, by whom, when, and what became of it."""
