"""The one Trainer, what it is told, and what it tells."""
