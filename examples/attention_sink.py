"""Read a stream that never ends: keep the first tokens (the attention sink) and a window, drop the middle, again and again."""

from vllm_symphony import lip

STREAM = "At dusk the lamp was lit. The boat came with oil and letters. In fog the horn sounded twice a minute. "


async def main(
    stream: str = STREAM, sink: int = 4, window: int = 128, laps: float = 3.0, max_tokens: int = 24
) -> dict[str, object]:
    """Read `laps` times as many tokens as the model has positions, and go on writing from there.

    Args:
        stream: what is read, over and over
        sink: how many of the first tokens are kept
        window: how many of the last ones
        laps: how far to go, in lengths of the model's context
        max_tokens: how much to write at the end
    """
    model = await lip.model_info()
    text = await lip.tokenize(stream)
    seen = len(text)
    window = min(window, model.max_positions // 4)
    file = await lip.open(tokens=text[: model.max_positions // 4])
    while seen < laps * model.max_positions:
        if file.length + len(text) > model.max_positions // 2:
            short = await file.extract([slice(0, sink), slice(-window, None)], positions="compact")
            await file.close()  # its pages are free: what was left out is forgotten
            file = short
        seen += len(text)
        await file.forward(text[: model.max_positions // 4], top_k=0, keep="none")
    async with file:
        said = await file.generate(max_tokens, ignore_eos=True)
        kept = await file.stat()
    return {"seen": seen, "positions": model.max_positions, "kept": kept.length, "lineage": kept.fidelity, "text": said.text}
