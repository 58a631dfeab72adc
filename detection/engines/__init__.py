"""Networks that the open-world parts work in; each adapts one detection library."""
