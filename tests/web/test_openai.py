"""The official client of OpenAI at `symphony serve --http`, with a Symphony token and without."""

import pytest
from openai import OpenAI

from tests.web.key import key
from tests.web.openai_suite import SUITE

pytestmark = pytest.mark.keeps("fds")  # the clients' connections


@pytest.fixture(scope="module", params=["a Symphony token", "no token"])
def client(server_b, request):
    shown = key(server_b, "ann") if request.param == "a Symphony token" else "none"
    with OpenAI(base_url=f"{server_b.http}/v1", api_key=shown, max_retries=0) as client:
        yield client


@pytest.mark.parametrize("does", SUITE, ids=lambda does: does.__name__)
def test_the_official_client(client, does):
    does(client)
