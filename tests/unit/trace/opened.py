"""What a viewer of timelines asks of one."""

import json
from typing import Any


def check(trace: dict[str, Any]) -> list[dict[str, Any]]:
    """What the format asks of a trace; gives its events."""
    events = json.loads(json.dumps(trace))["traceEvents"]
    assert trace["displayTimeUnit"] in ("ms", "ns")
    slices: dict[tuple[int, int], list[tuple[float, float]]] = {}
    starts, ends = {}, {}
    for e in events:
        assert e["ph"] in ("M", "X", "s", "f") and isinstance(e["name"], str), e
        assert isinstance(e["ts"], int | float) and e["ts"] >= 0 and isinstance(e["pid"], int) and isinstance(e["tid"], int), e
        if e["ph"] == "X":
            assert e["dur"] >= 0 and isinstance(e["args"], dict)
            slices.setdefault((e["pid"], e["tid"]), []).append((e["ts"], e["ts"] + e["dur"]))
        elif e["ph"] != "M":
            assert (e["cat"] and e["ph"] == "s") or e["bp"] == "e"
            assert e["id"] not in (starts if e["ph"] == "s" else ends), "an arrow's number twice"
            (starts if e["ph"] == "s" else ends)[e["id"]] = e
    assert starts.keys() == ends.keys()
    for number, start in starts.items():
        assert start["ts"] <= ends[number]["ts"]
    for e in (*starts.values(), *ends.values()):
        assert any(a <= e["ts"] <= b for a, b in slices[e["pid"], e["tid"]]), f"an arrow without a slice: {e}"
    for track in slices.values():
        for (_, end), (begin, _) in zip(sorted(track), sorted(track)[1:], strict=False):
            assert end <= begin + 0.002, "slices of one track overlap"
    assert [e["ts"] for e in events if e["ph"] != "M"] == sorted(e["ts"] for e in events if e["ph"] != "M")
    return events
