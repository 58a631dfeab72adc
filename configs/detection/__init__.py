"""Open-world detection recipes; `tasks/` holds published task sets."""
