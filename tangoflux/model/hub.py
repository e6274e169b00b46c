"""What may go wrong with the hub."""

from __future__ import annotations

from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    HTTPError,  # pyright: ignore[reportPrivateImportUsage]  # of the HTTP library that the hub's has chosen
)

HUB_ERRORS = (HfHubHTTPError, HTTPError, HFValidationError, OSError, RuntimeError)
"""What a download raises: bad answers, broken connections, odd names, the disk, the hub's own transfer protocol."""
