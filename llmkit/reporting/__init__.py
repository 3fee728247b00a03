"""What a run leaves behind: recipe.yaml, metrics.json, the model card."""
