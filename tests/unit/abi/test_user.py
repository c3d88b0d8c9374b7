import getpass
import os

from vllm_symphony.abi.user import own_user


def test_a_user_without_a_name_is_known_by_its_number(monkeypatch):
    def nobody() -> str:
        raise KeyError("getpwuid(): uid not found")

    monkeypatch.setattr(getpass, "getuser", nobody)

    assert own_user() == str(os.geteuid())
