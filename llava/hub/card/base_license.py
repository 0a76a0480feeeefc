"""The licence that the card of a base model or of a data set names."""

from __future__ import annotations

import logging
from typing import Literal

from llava.hub.card.sample import README, parse_front_matter
from llava.plain_files import expanded

logger = logging.getLogger(__name__)

_SECONDS = 10.0


def license_of(name: str, kind: Literal["model", "dataset"] = "model") -> str | None:
    """Reads it from a folder's card or from the Hub's; None if it names none, or cannot be read.

    The Hub is asked once: a card can be written without it, and then says that the licence is not known.

    Args:
        name: A folder, or a name on the Hub.
        kind: Of repository.
    """
    file = expanded(name) / README
    try:
        text = file.read_text(encoding="utf-8") if file.parent.is_dir() else _fetch(name, kind)
        entries = parse_front_matter(text, f"{README} of {name}")
    except Exception as error:  # the disk's, YAML's, the Hub's, and those of its HTTP library
        logger.warning("the card of %s cannot be read: %s", name, str(error).partition("\n")[0])
        return None
    found, named = entries.get("license"), entries.get("license_name")
    found = ", ".join(map(str, found)) if isinstance(found, list) else found
    return f"{found} ({named})" if found == "other" and named else None if found is None else str(found)


def _fetch(name: str, kind: str) -> str:
    """Asks once; `hf_hub_download` would try again for 23 seconds where there is no network."""
    from huggingface_hub import hf_hub_url
    from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status

    url = hf_hub_url(name, README, repo_type=kind)
    response = get_session().get(url, headers=build_hf_headers(), timeout=_SECONDS, follow_redirects=True)
    hf_raise_for_status(response)
    return str(response.text)
