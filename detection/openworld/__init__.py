"""The open-world parts of a detector, on plain tensors: what is labelled unknown, what clusters, what is decided."""
