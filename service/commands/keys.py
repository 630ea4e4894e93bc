"""`winnow keys`: makes, lists and revokes the API keys of a workspace."""

import argparse
import json
import os
import sys
from typing import Any

from rich.table import Table

from service.commands import options, output
from service.commands.options import Parser
from service.http.keys import ROLES, Key, Keys


def add_keys(parser: Parser) -> None:
    """`winnow keys`."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True, parser_class=Parser)
    make = actions.add_parser("make", help="make a key and print it; it cannot be shown again")
    make.add_argument("name", metavar="NAME", help="name of the key's user or purpose")
    make.add_argument(
        "--role",
        choices=ROLES,
        required=True,
        help="read: see own jobs; submit: also make and cancel them; admin: all jobs",
    )
    make.add_argument(
        "--owner", metavar="ID", help="id of the key that owns the jobs it sees and makes (default: its own id)"
    )
    listed = actions.add_parser("list", help="list the valid keys")
    revoke = actions.add_parser("revoke", help="revoke a key")
    revoke.add_argument("key", metavar="ID", help="id of the key, see `winnow keys list`")
    for action in (make, listed, revoke):
        action.add_argument(
            "--workspace",
            metavar="DIR",
            default=os.environ.get("WINNOW_WORKSPACE"),
            help="folder or URL of the workspace (default: the variable WINNOW_WORKSPACE)",
        )
    for action in (make, listed):
        options.add_json(action)


def keys(parser: Parser, args: argparse.Namespace) -> int:
    """Makes, lists or revokes keys; a running service applies it within two seconds."""
    from pruner.tables.storage import Storage

    if not args.workspace:
        parser.error("--workspace (or WINNOW_WORKSPACE) must be given")
    store = Keys(Storage(args.workspace))
    if args.action == "make":
        key, text = store.create(args.name, args.role, args.owner)
        sys.stdout.write((json.dumps(_public(key) | {"key": text}) if args.json else text) + "\n")
        note = "The key is not stored and cannot be shown again: save it now."
        sys.stderr.write(f"Key {key.id} ({key.name}, role {key.role}). {note}\n")
    elif args.action == "list":
        _list(store.all(), as_json=args.json)
    else:
        revoked = store.revoke(args.key)
        sys.stdout.write(f"Key {revoked.id} ({revoked.name}) is revoked.\n")
    return 0


def _list(listed: list[Key], *, as_json: bool) -> None:
    if as_json:
        sys.stdout.write(json.dumps([_public(key) for key in listed]) + "\n")
        return
    table = Table("id", "name", "role", "owner", "created", box=None)
    for key in listed:
        table.add_row(key.id, key.name, key.role, key.owner, key.created_at.isoformat()[:19].replace("T", " "))
    output.console().print(table)


def _public(key: Key) -> dict[str, Any]:
    return key.model_dump(mode="json", exclude={"salt", "sha256"})
