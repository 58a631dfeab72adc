"""Control recipes."""
