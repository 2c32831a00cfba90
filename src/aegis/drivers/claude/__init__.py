"""The driver of Claude Code, `claude-code`: the CLI over stream-json on its stdin and stdout."""

from aegis.drivers.claude.driver import PROGRAM, ClaudeConversation, ClaudeDriver

__all__ = ["PROGRAM", "ClaudeConversation", "ClaudeDriver"]
