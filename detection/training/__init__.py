"""Tasks one after the other: train, fine-tune, fit energies, evaluate; resumable at any point."""
