"""Metrics, the baselines beside them, and how sure they are."""
