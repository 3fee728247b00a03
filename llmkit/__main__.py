"""`python -m llmkit`."""

from llmkit.cli.main import console_main

console_main()
