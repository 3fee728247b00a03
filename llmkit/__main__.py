from llmkit.cli import console_main

console_main()
