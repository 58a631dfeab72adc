"""Published task sets: `<benchmark>.yaml` with name, tasks, unknown_id and aliases."""
