"""The credentials file of an invented service account of Google Cloud."""

from __future__ import annotations

import json
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa


def service_account(path: Path, token_uri: str) -> Path:
    """Write the file of an invented service account, with tokens from `token_uri`."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    document = {
        "type": "service_account",
        "project_id": "pictures",
        "private_key_id": "1",
        "private_key": pem.decode(),
        "client_email": "quel@pictures.iam.gserviceaccount.com",
        "client_id": "1",
        "token_uri": token_uri,
    }
    path.write_text(json.dumps(document))
    return path
