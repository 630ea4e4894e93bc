"""The command that makes, lists and revokes the keys of a workspace."""

import argparse
import json
import os
import sys
from typing import Any

from rich.console import Console
from rich.table import Table

from service.commands import options
from service.commands.options import Parser
from service.http.keys import ROLES, Key, Keys


def add_keys(parser: Parser) -> None:
    """`winnow keys`."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True, parser_class=Parser)
    make = actions.add_parser("make", help="make a key and print it, this once")
    make.add_argument("name", metavar="NAME", help="who or what the key is for")
    make.add_argument("--role", choices=ROLES, required=True, help="read own jobs, submit too, or all jobs of all")
    make.add_argument("--owner", metavar="ID", help="id of a key whose jobs this one sees (default: its own)")
    shown = actions.add_parser("list", help="list the keys in force")
    revoke = actions.add_parser("revoke", help="revoke a key")
    revoke.add_argument("key", metavar="ID", help="the key's id, as `winnow keys list` shows it")
    for action in (make, shown, revoke):
        action.add_argument(
            "--workspace",
            metavar="DIR",
            default=os.environ.get("WINNOW_WORKSPACE"),
            help="folder or URL of the service's workspace",
        )
    for action in (make, shown):
        options.add_json(action)


def keys(parser: Parser, args: argparse.Namespace) -> int:
    """Makes, lists or revokes keys; a service that runs notices within two seconds."""
    from pruner.tables.storage import Storage

    if not args.workspace:
        parser.error("--workspace (or WINNOW_WORKSPACE): must be given")
    store = Keys(Storage(args.workspace))
    if args.action == "make":
        key, text = store.make(args.name, args.role, args.owner)
        sys.stdout.write((json.dumps(_shown(key) | {"key": text}) if args.json else text) + "\n")
        sys.stderr.write(f"Key {key.id} of {key.name}, role {key.role}. It is kept nowhere: note it now.\n")
    elif args.action == "list":
        _list(store.all(), as_json=args.json)
    else:
        revoked = store.revoke(args.key)
        sys.stdout.write(f"Key {revoked.id} of {revoked.name} opens nothing any more.\n")
    return 0


def _list(found: list[Key], *, as_json: bool) -> None:
    if as_json:
        sys.stdout.write(json.dumps([_shown(key) for key in found]) + "\n")
        return
    table = Table("id", "name", "role", "owner", "made", box=None)
    for key in found:
        table.add_row(key.id, key.name, key.role, key.owner, key.created_at.isoformat()[:19].replace("T", " "))
    Console().print(table)


def _shown(key: Key) -> dict[str, Any]:
    return key.model_dump(mode="json", exclude={"salt", "sha256"})
