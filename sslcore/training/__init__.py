"""What every training run needs, whatever it trains: Lightning's checkpoints without pickle, resuming, progress."""
