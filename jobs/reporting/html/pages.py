"""HTML pages in one file, with their style and script inline and without network access."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from actors.storage.atomic import atomic_write
from jobs.reporting import formatting

TEMPLATES = Path(__file__).parent / "templates"


def render_page(template: str, **values: Any) -> str:
    """Renders a page of ``templates/``, in which ``f`` is the module with the formatting functions."""
    style = (TEMPLATES / "page.css").read_text(encoding="utf-8")
    script = (TEMPLATES / "page.js").read_text(encoding="utf-8")
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template, globals={"f": formatting}).render(
        style=Markup(style),
        script=Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        **values,
    )


def write_page(path: Path, page: str) -> Path:
    """Writes a page and returns its path.

    Raises:
        ResourceError: the disk is full or the directory cannot be written.
    """
    with atomic_write(path) as temporary:
        temporary.write_bytes(page.encode("utf-8", "xmlcharrefreplace"))
    return path
