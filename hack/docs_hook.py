"""For mkdocs: a page may point at a file of the repository, which a site does not have. Such a link becomes the
file's name; one that points nowhere is a warning, and with it the end of a strict build."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

LOG = logging.getLogger("mkdocs.plugins.docs_hook")
OUTSIDE = re.compile(r"\[([^\]]+)\]\((\.\./[^)#]+)(?:#[^)]*)?\)")


def on_page_markdown(markdown: str, page: Any, config: Any, **_: Any) -> str:
    """The page with its links out of docs/ as text."""

    def plain(match: re.Match[str]) -> str:
        if not (Path(config["docs_dir"]) / match[2]).exists():
            LOG.warning("%s points at %s, which is not there", page.file.src_path, match[2])
        return match[1] if match[1].startswith("`") else f"`{match[1]}`"

    return OUTSIDE.sub(plain, markdown)
