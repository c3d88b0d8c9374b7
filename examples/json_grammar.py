"""A grammar is an argument of a call: whatever the model, the answer is JSON of the program's schema."""

import json

from vllm_symphony import lip

PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 24},
        "born": {"type": "integer", "minimum": 1000, "maximum": 2030},
        "field": {"enum": ["science", "art", "politics", "sport", "other"]},
    },
    "required": ["name", "born", "field"],
    "additionalProperties": False,
}


async def main(text: str = "Ada Lovelace, born in 1815, wrote the first program.", max_tokens: int = 256) -> dict[str, object]:
    """Extract a person from a text, as JSON.

    Args:
        text: where to look
        max_tokens: the longest answer that is waited for
    """
    question = f"Whom is this about? Answer in JSON with name, born and field.\n{text}"
    async with lip.open(tokens=lip.render_chat(question)) as chat:
        # JSON allows blanks without end; the penalty ends a small model's love of them.
        answer = await chat.generate(max_tokens, grammar=lip.json(PERSON), frequency_penalty=0.5)
    return dict(json.loads(answer.text))
