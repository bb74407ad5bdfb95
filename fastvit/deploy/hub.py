"""Upload a folder to the Hugging Face hub."""

from pathlib import Path

from huggingface_hub import HfApi, get_token
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from huggingface_hub.utils import validate_repo_id

from fastvit.errors import ExportError, reason_of

REFUSED = (401, 403)


def require_repository(name: str) -> None:
    """What can be known without asking the hub, before any work.

    Raises:
        ExportError: it is no name of a repository, or there is no token.
    """
    try:
        validate_repo_id(name)
        valid = name.count("/") == 1
    except HFValidationError:
        valid = False
    if not valid:
        raise ExportError(f"{name!r} is no name of a repository: give owner/name, such as jane/flowers")
    if get_token() is None:
        raise ExportError(
            "the hub needs a token that may write: make one at https://huggingface.co/settings/tokens, then run "
            "`hf auth login` or set HF_TOKEN"
        )


def push(folder: Path, name: str, *, private: bool, message: str) -> str:
    """Make the repository `name` unless it is there, and put the files of a folder into it, as one commit.

    Args:
        name: owner/name.
        private: for a repository that is made now.
        message: of the commit.

    Returns:
        Its address.

    Raises:
        ExportError: the hub refuses, or cannot be reached.
    """
    api = HfApi()
    try:
        address = api.create_repo(name, private=private, exist_ok=True)
        api.upload_folder(repo_id=name, folder_path=folder, commit_message=message)
    except HfHubHTTPError as error:
        status = error.response.status_code
        hint = "use a token that may write there" if status in REFUSED else "try again later"
        raise ExportError(f"the hub refused {name} ({status}, {reason_of(error)}): {hint}") from error
    except Exception as error:  # of the HTTP client, which differs between versions of huggingface_hub
        raise ExportError(
            f"the hub at {api.endpoint} cannot be reached ({type(error).__name__}: {reason_of(error)}): push again "
            "when there is a network; fastvit export --format timm writes the same folder without one"
        ) from error
    return str(address)
