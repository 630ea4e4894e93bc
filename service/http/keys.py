"""Keys of the API: made, listed and revoked as files of the workspace, which hold no secret, only what it hashes to.

A key reads `winnow_<id>_<secret>`. Its file `keys/<id>.json` is never changed; revoking removes it.
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
ROLES: tuple[Role, ...] = ("read", "submit", "admin")  # each may do what those before it may
_FRESH_SECONDS = 2.0  # after which the keys are looked up again: the longest that a revoked one still works
_FOLDER = "keys"
_NEEDED = "needed"  # a file beside the keys, since when nobody comes in without one
_ID = re.compile(r"[0-9a-f]{12}")
_NOBODY = "0" * 64  # no hash of a secret


class Key(BaseModel):
    """What is known of a key. `owner` is whose jobs its bearer sees: the id of this key, or of one made before."""

    id: str
    name: str
    role: Role
    owner: str
    created_at: datetime
    salt: str
    sha256: str  # HMAC of the secret with the salt, hex

    def opens(self, secret: str) -> bool:
        """Whether the secret is this key's; takes as long whether it is or not."""
        return hmac.compare_digest(_digest(secret, self.salt), self.sha256)

    def may(self, role: Role) -> bool:
        """Whether its bearer may do what takes this role."""
        return ROLES.index(self.role) >= ROLES.index(role)


class Keys:
    """The keys of a workspace. Methods raise OSError as the storage does."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._lock = threading.Lock()
        self._known: dict[str, Key] = {}
        self._needed = False
        self._looked = float("-inf")

    def make(self, name: str, role: Role, owner: str | None = None) -> tuple[Key, str]:
        """A new key, and the text that its bearer sends, which nobody can tell again.

        `owner` is the id of a key whose jobs this one is to see. Raises InputError if there is no such key.
        """
        key_id, secret, salt = secrets.token_hex(6), secrets.token_urlsafe(32), secrets.token_hex(16)
        if owner is not None:
            owner = self._of(owner).owner
        key = Key(
            id=key_id,
            name=name,
            role=role,
            owner=owner or key_id,
            created_at=datetime.now(timezone.utc),
            salt=salt,
            sha256=_digest(secret, salt),
        )
        self._storage.create_new(f"{_FOLDER}/{_NEEDED}", b"")
        self._storage.create_new(_path(key_id), key.model_dump_json(indent=1).encode() + b"\n")
        return key, f"winnow_{key_id}_{secret}"

    def revoke(self, key_id: str) -> Key:
        """Ends a key. Raises InputError if there is none of this id."""
        key = self._of(key_id)
        self._storage.remove(_path(key.id))
        self._look()
        return key

    def all(self) -> list[Key]:
        """The keys that are in force, oldest first."""
        self._look()
        return sorted(self._known.values(), key=lambda key: key.created_at)

    def needed(self) -> bool:
        """Whether a key was ever made, so that revoking the last one opens no door."""
        self._look_again()
        return self._needed

    def find(self, text: str) -> Key | None:
        """The key of what a bearer sent, or None. One that was revoked elsewhere is refused within two seconds."""
        self._look_again()
        kind, _, rest = text.partition("_")
        key_id, _, secret = rest.partition("_")
        key = self._known.get(key_id) if kind == "winnow" else None
        if key is None and kind == "winnow" and _ID.fullmatch(key_id):
            key = self._read(key_id)  # made a moment ago, perhaps
        if key is None:
            hmac.compare_digest(_digest(secret, ""), _NOBODY)  # as long as for a key that there is
            return None
        return key if key.opens(secret) else None

    def _of(self, key_id: str) -> Key:
        self._look()
        if key_id not in self._known:
            raise InputError(f"there is no key {key_id!r}: `winnow keys list` shows those in force")
        return self._known[key_id]

    def _look_again(self) -> None:
        if time.monotonic() - self._looked < _FRESH_SECONDS:
            return
        with self._lock:
            if time.monotonic() - self._looked >= _FRESH_SECONDS:
                self._look()

    def _look(self) -> None:
        there = self._storage.list(_FOLDER)
        self._needed = _NEEDED in there
        names = [name.removesuffix(".json") for name in there if name.endswith(".json")]
        known = {name: self._known.get(name) or self._read(name) for name in names}
        self._known = {name: key for name, key in known.items() if key is not None}
        self._looked = time.monotonic()

    def _read(self, key_id: str) -> Key | None:
        try:
            return Key.model_validate_json(self._storage.read_bytes(_path(key_id)))
        except (FileNotFoundError, ValueError):  # revoked meanwhile, or no key: it opens nothing
            return None


def _path(key_id: str) -> str:
    return f"{_FOLDER}/{key_id}.json"


def _digest(secret: str, salt: str) -> str:
    # A secret has 256 random bits, so no guess at one is ever right, and a slow hash would add nothing but load.
    return hmac.new(salt.encode(), secret.encode(errors="replace"), hashlib.sha256).hexdigest()
