"""A person's own agent programs and the files in which they keep their MCP servers.

`programs` knows each program's file and the form of an entry, `jsonc` and `tables` change the text of one entry and nothing else,
`files` writes. Every change is checked by reading the new text: all but the entry must be as it was.
"""

from __future__ import annotations
