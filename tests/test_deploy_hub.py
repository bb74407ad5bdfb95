"""Uploading to a stand-in of the hub, by the hub's own client. The hub itself was not asked."""

import pytest

from fastvit.deploy import hub as deploy_hub
from fastvit.deploy.hub import push, require_repository
from fastvit.errors import ExportError
from hub import TOKEN, running
from launch import complaint, script


@pytest.fixture
def hub(monkeypatch):
    with running() as hub:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub.address)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield hub


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"weights" * 1000)
    (tmp_path / "README.md").write_text("---\nlibrary_name: timm\n---\n# Flowers\n")
    return tmp_path


def test_a_folder_becomes_one_commit_in_a_new_repository(hub, folder):
    address = push(folder, "jane/flowers", private=True, message="First")
    assert address == f"{hub.address}/jane/flowers"
    assert hub.private == {"jane/flowers"}
    assert hub.commits == [("jane/flowers", "First")]
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert hub.repositories["jane/flowers"] == files
    push(folder, "jane/flowers", private=False, message="Second")  # into the one that is there
    assert hub.commits[-1] == ("jane/flowers", "Second")


@pytest.mark.parametrize(("status", "hint"), [(403, "use a token that may write there"), (500, "try again later")])
def test_what_the_hub_refuses_gets_a_sentence(hub, folder, status, hint):
    hub.refuses = status
    with pytest.raises(ExportError, match=rf"^the hub refused jane/flowers \({status}, .*\): {hint}$"):
        push(folder, "jane/flowers", private=False, message="")


def test_a_hub_that_cannot_be_reached_gets_a_sentence(monkeypatch, folder):
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://localhost:9")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    with pytest.raises(ExportError, match=r"^the hub at http://localhost:9 cannot be reached .*--format timm writes"):
        push(folder, "jane/flowers", private=False, message="")


@pytest.mark.parametrize("name", ["flowers", "jane/flowers/large", "jane/flow ers", "jane/--"])
def test_what_is_no_repository_gets_a_sentence(name):
    with pytest.raises(ExportError, match=r"is no name of a repository: give owner/name, such as jane/flowers$"):
        require_repository(name)


def test_a_missing_token_gets_a_sentence_before_any_work(monkeypatch, capsys):
    monkeypatch.setattr(deploy_hub, "get_token", lambda: None)
    said = complaint(script("push"), ["no/run", "jane/flowers"], capsys)
    assert said.startswith("the hub needs a token that may write")
    assert "hf auth login" in said
