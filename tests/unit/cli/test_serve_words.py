"""What `symphony serve` says of its HTTP door."""

from pathlib import Path

import pytest

from vllm_symphony.cli.serve import _of_http

TOKEN = Path("/run/symphony/token")


def test_without_http_nothing_is_said():
    assert _of_http({"model": "tiny"}, TOKEN) == ()


@pytest.mark.parametrize("url", ["http://127.0.0.1:8000", "http://[::1]:8000", "https://0.0.0.0:8000"])
def test_the_live_page_is_shown_with_where_a_token_is(url):
    (said,) = _of_http({"http": url}, TOKEN)

    assert f"{url}/symphony/" in said and str(TOKEN) in said


@pytest.mark.parametrize("url", ["http://0.0.0.0:8000", "http://10.0.0.7:8000"])
def test_tokens_that_anybody_on_the_way_can_read_are_warned_of(url):
    _, said = _of_http({"http": url}, TOKEN)

    assert "--tls-cert" in said and url.removeprefix("http://") in said
