"""A small MCP server on stdio: notes, in memory. Each principal has a process of its own, so nobody reads another's notes."""

from mcp.server.mcpserver import MCPServer

server = MCPServer("notes")
notes: list[str] = []


@server.tool()
def add(text: str) -> int:
    """Keep a note; gives how many there are."""
    notes.append(text)
    return len(notes)


@server.tool()
def search(words: list[str], limit: int = 5) -> list[str]:
    """The notes that have most of these words, best first."""
    wanted = {word.lower() for word in words}
    scored = [(len(wanted & set(note.lower().rstrip(".").split())), note) for note in notes]
    return [note for score, note in sorted(scored, reverse=True)[:limit] if score]


if __name__ == "__main__":
    server.run("stdio")
