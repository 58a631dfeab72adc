"""Training agents for control: recipes, runs that resume exactly, evaluation, clips and statistics over seeds."""
