import stat

from vllm_symphony.edge.credentials import OWN
from vllm_symphony.edge.own_token import OwnToken
from vllm_symphony.edge.token import proves, split


def test_it_is_published_privately_with_the_addresses_it_is_for_and_withdrawn(tmp_path):
    path = tmp_path / "token"
    path.write_text("what a killed server left")
    path.chmod(0o644)
    own = OwnToken(path)

    own.publish(["unix:/s", "127.0.0.1:5"])

    text, *addresses = path.read_text().splitlines()
    assert addresses == ["unix:/s", "127.0.0.1:5"]
    assert proves(split(text)[1], own.token)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    own.withdraw()
    own.withdraw()
    assert not path.exists()


def test_its_bearer_is_the_servers_user_with_all_scopes_and_another_server_has_another(tmp_path):
    one, two = OwnToken(tmp_path / "a").token, OwnToken(tmp_path / "b").token

    assert one.credentials == OWN
    assert set(OWN.scopes) == {"admin", "run"}
    assert one.sha256 != two.sha256
