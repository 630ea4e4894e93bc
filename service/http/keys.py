"""API keys, stored in the workspace as files with a salted hash of the secret.

The text of a key is `winnow_<id>_<secret>`. Its file `keys/<id>.json` never changes; revoking the key deletes it.
"""

import hashlib
import hmac
import re
import secrets
import threading
import time
from datetime import datetime, timezone
from typing import Literal

from pydantic import BaseModel

from pruner.errors import InputError
from pruner.tables.storage import Storage

Role = Literal["read", "submit", "admin"]
ROLES: tuple[Role, ...] = ("read", "submit", "admin")  # each role includes those before it
_RELOAD_SECONDS = 2.0  # a key that another process revoked works no longer than this
_FOLDER = "keys"
_REQUIRED_FILE = "needed"  # exists in the folder since the first key was created; from then on keys are required
_ID = re.compile(r"[0-9a-f]{12}")
_NO_HASH = "0" * 64  # not the hash of any secret


class Key(BaseModel):
    """The stored record of a key. `owner` is the id of the key that owns the jobs: this one, or one created before."""

    id: str
    name: str
    role: Role
    owner: str
    created_at: datetime
    salt: str
    sha256: str  # HMAC of the secret with the salt, hex

    def matches(self, secret: str) -> bool:
        """Whether this is the key's secret, compared in constant time."""
        return hmac.compare_digest(_digest(secret, self.salt), self.sha256)

    def allows(self, role: Role) -> bool:
        """Whether the key's role includes this role."""
        return ROLES.index(self.role) >= ROLES.index(role)


class Keys:
    """The keys of a workspace. All methods raise OSError if the storage cannot be read or written."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._lock = threading.Lock()
        self._keys: dict[str, Key] = {}
        self._required = False
        self._loaded_at = float("-inf")

    def create(self, name: str, role: Role, owner: str | None = None) -> tuple[Key, str]:
        """Creates a key. Returns its record and its text with the secret, which is not stored.

        `owner` is the id of an existing key whose jobs the new one sees. Raises InputError if there is no such key.
        """
        key_id, secret, salt = secrets.token_hex(6), secrets.token_urlsafe(32), secrets.token_hex(16)
        if owner is not None:
            owner = self._get(owner).owner
        key = Key(
            id=key_id,
            name=name,
            role=role,
            owner=owner or key_id,
            created_at=datetime.now(timezone.utc),
            salt=salt,
            sha256=_digest(secret, salt),
        )
        self._storage.create_new(f"{_FOLDER}/{_REQUIRED_FILE}", b"")
        self._storage.create_new(_path(key_id), key.model_dump_json(indent=1).encode() + b"\n")
        return key, f"winnow_{key_id}_{secret}"

    def revoke(self, key_id: str) -> Key:
        """Deletes a key; its record. Raises InputError if there is no key with this id."""
        key = self._get(key_id)
        self._storage.remove(_path(key.id))
        self._reload()
        return key

    def all(self) -> list[Key]:
        """All valid keys, oldest first."""
        self._reload()
        return sorted(self._keys.values(), key=lambda key: key.created_at)

    def required(self) -> bool:
        """Whether requests need a key: true since the first was created, even if all have been revoked."""
        self._reload_if_old()
        return self._required

    def find(self, text: str) -> Key | None:
        """The key of this text, or None. A key that another process revoked is refused within two seconds."""
        self._reload_if_old()
        kind, _, rest = text.partition("_")
        key_id, _, secret = rest.partition("_")
        key = self._keys.get(key_id) if kind == "winnow" else None
        if key is None and kind == "winnow" and _ID.fullmatch(key_id):
            key = self._read(key_id)  # it may be newer than the last reload
        if key is None:
            hmac.compare_digest(_digest(secret, ""), _NO_HASH)  # takes as long as for an existing key
            return None
        return key if key.matches(secret) else None

    def _get(self, key_id: str) -> Key:
        self._reload()
        if key_id not in self._keys:
            raise InputError(f"there is no key {key_id!r}: `winnow keys list` shows the valid ones")
        return self._keys[key_id]

    def _reload_if_old(self) -> None:
        if time.monotonic() - self._loaded_at < _RELOAD_SECONDS:
            return
        with self._lock:
            if time.monotonic() - self._loaded_at >= _RELOAD_SECONDS:
                self._reload()

    def _reload(self) -> None:
        files = self._storage.list(_FOLDER)
        self._required = _REQUIRED_FILE in files
        ids = [name.removesuffix(".json") for name in files if name.endswith(".json")]
        keys = {key_id: self._keys.get(key_id) or self._read(key_id) for key_id in ids}
        self._keys = {key_id: key for key_id, key in keys.items() if key is not None}
        self._loaded_at = time.monotonic()

    def _read(self, key_id: str) -> Key | None:
        try:
            return Key.model_validate_json(self._storage.read_bytes(_path(key_id)))
        except (FileNotFoundError, ValueError):  # revoked in the meantime, or not a key
            return None


def _path(key_id: str) -> str:
    return f"{_FOLDER}/{key_id}.json"


def _digest(secret: str, salt: str) -> str:
    # Secrets have 256 random bits and cannot be guessed, so a slow password hash would only add load.
    return hmac.new(salt.encode(), secret.encode(errors="replace"), hashlib.sha256).hexdigest()
