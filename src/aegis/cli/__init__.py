"""The `aegis` program: one verb, one function, over the synchronous client. Imports core and client only.

`main` is the entry and turns every failure into one line, a hint and an exit code. `commands` is the table of verbs; the module
of a verb is imported only when that verb is used. Everything that is shown passes `output`, where text from agents is made
harmless; nothing else writes to the terminal. With `--json` a verb writes one JSON object, or one on each line.
"""
