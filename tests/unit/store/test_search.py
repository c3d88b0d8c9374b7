"""The text index: what the caller may not see counts for nothing, and nothing depends on its file."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest

from vllm_symphony.abi.types import Ino
from vllm_symphony.errors import InvalidArgument
from vllm_symphony.store.search import SearchIndex

TEXTS = {
    10: "the cat sat on the mat",
    11: "a dog and a cat and a cat",
    12: "nothing of interest",
    13: "cat " * 50,
}


def decode(tokens: list[int]) -> str:
    return TEXTS[tokens[0]]


def index_of(*inos: int, path: Path | None = None) -> SearchIndex:
    index = SearchIndex(path, decode)
    index.put((Ino(ino), 100 + ino, [ino]) for ino in inos)
    return index


def test_matches_come_best_first_with_their_snippets_and_number():
    index = index_of(10, 11, 12)

    hits, total = index.find("cat", [Ino(10), Ino(11), Ino(12)], 10)

    assert [ino for ino, _ in hits] == [11, 10] and total == 2
    assert hits[1][1] == "the [cat] sat on the mat"


def test_a_limit_cuts_the_list_and_not_the_number():
    hits, total = index_of(10, 11, 13).find("cat", [Ino(10), Ino(11), Ino(13)], 1)

    assert len(hits) == 1 and total == 3


def test_what_is_no_candidate_changes_neither_hits_nor_number_nor_order():
    alone, among = index_of(10, 11), index_of(10, 11, 12, 13)
    seen = [Ino(10), Ino(11)]

    for query in ("cat", "dog OR mat", "cat dog", '"the cat"', "nothing"):
        assert among.find(query, seen, 10) == alone.find(query, seen, 10)


def test_a_later_text_takes_the_place_of_the_earlier_one():
    index = SearchIndex(None, lambda tokens: " ".join(f"w{t}" for t in tokens))
    index.put([(Ino(5), 1, [1, 2])])
    index.put([(Ino(5), 2, [2, 3])])

    assert index.find("w1", [Ino(5)], 10) == ((), 0)
    assert index.find("w3", [Ino(5)], 10) == (((Ino(5), "w2 [w3]"),), 1)
    assert index.indexed() == {5: 2}


def test_a_forgotten_file_is_found_no_more():
    index = index_of(10, 11)

    index.forget([Ino(10), Ino(99)])

    assert index.find("cat", [Ino(10), Ino(11)], 10)[1] == 1 and index.indexed() == {11: 111}


@pytest.mark.parametrize("query", ['"open', "cat AND", "nocolumn:cat", "(", "*"])
def test_a_query_that_does_not_parse_is_the_callers_mistake(query: str):
    index = index_of(10)

    with pytest.raises(InvalidArgument, match="text is no query"):
        index.find(query, [Ino(10)], 10)

    assert index.find("cat", [Ino(10)], 10)[1] == 1


def test_the_index_outlives_the_server(tmp_path: Path):
    index_of(10, path=tmp_path / "search.db").close()

    with closing(SearchIndex(tmp_path / "search.db", decode)) as index:
        assert index.indexed() == {10: 110} and index.find("mat", [Ino(10)], 1)[1] == 1


def test_a_damaged_index_is_made_again_empty(tmp_path: Path):
    index_of(10, path=tmp_path / "search.db").close()
    (tmp_path / "search.db").write_bytes(b"garbage" * 1000)

    with closing(SearchIndex(tmp_path / "search.db", decode)) as index:
        assert index.indexed() == {}
        index.put([(Ino(11), 1, [11])])

        assert index.find("dog", [Ino(11)], 1)[1] == 1
