import os
import stat

import pytest

from vllm_symphony.edge.run_dir import claim
from vllm_symphony.errors import AccessDenied, FileExists


def test_the_directory_is_made_private(tmp_path):
    with claim(tmp_path / "a" / "run"):
        assert stat.S_IMODE((tmp_path / "a" / "run").stat().st_mode) == 0o700


def test_rights_that_others_have_are_taken_away(tmp_path):
    (tmp_path / "run").mkdir(mode=0o755)
    with claim(tmp_path / "run"):
        assert stat.S_IMODE((tmp_path / "run").stat().st_mode) == 0o700


def test_a_second_claim_is_refused_until_the_first_ends(tmp_path):
    with claim(tmp_path), pytest.raises(FileExists, match=rf"process {os.getpid()}"), claim(tmp_path):
        pass
    with claim(tmp_path):
        pass


def test_a_file_in_its_place_is_refused(tmp_path):
    (tmp_path / "run").write_text("")
    with pytest.raises(AccessDenied), claim(tmp_path / "run"):
        pass
