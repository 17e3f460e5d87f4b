"""Many runs of one experiment: a sweep YAML in W&B's schema, two engines (Optuna here, W&B agents)."""
