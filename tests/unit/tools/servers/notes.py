"""A real MCP server: notes in memory, so that what one session wrote shows whether another shares it."""

import os

from mcp.server.mcpserver import MCPServer

server = MCPServer("notes")
notes: list[str] = []


@server.tool()
def add(text: str) -> int:
    """Keep a note; how many there are."""
    notes.append(text)
    return len(notes)


@server.tool()
def search(word: str) -> list[str]:
    """Notes with this word."""
    return [note for note in notes if word in note]


@server.tool()
def environment() -> dict[str, str]:
    """All of it, its user and its folder."""
    return {**os.environ, "uid": str(os.getuid()), "cwd": os.getcwd()}


@server.tool()
def fail() -> str:
    """Always fails."""
    raise ValueError("no such note")


if __name__ == "__main__":
    server.run("stdio")
