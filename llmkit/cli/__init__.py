"""The command line: one file per verb, each with `add_arguments(parser)` and `run(args)`; `main` finds and runs them.

Importing a verb does not import torch: `run` imports what it needs, so that help and wrong usage are answered at once.
"""
