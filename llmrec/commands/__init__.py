"""The commands, in a folder for what a user does with them; `llmrec/cli.py` lists all of them.

`signatures.py` of a folder has the arguments, options and help texts of its commands, and imports nothing heavy. What
a command does is imported when it runs: from the module of its name beside it (`ls`, `cat` and `cp` share `shipped`,
all stages but `ids` share `run`), or from the room of its subject (`serve`).
"""
