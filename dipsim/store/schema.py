"""Schema of the store, its version, and what a file must be to be opened as one."""

import os
import sqlite3
from pathlib import Path

from dipsim.errors import StoreError

VERSION = 1
"""Version of the tables; a store of another one is refused."""
APPLICATION = int.from_bytes(b"dips")
"""Number by which SQLite files say whose they are."""
_MAGIC, _APPLICATION_AT = b"SQLite format 3\0", 68
"""First bytes of an SQLite file, and where the number of its application stands."""
TABLES = {
    "cells": """CREATE TABLE cells (
    key TEXT PRIMARY KEY NOT NULL,
    options TEXT NOT NULL,
    figures TEXT,
    marks TEXT NOT NULL,
    why TEXT,
    seconds REAL NOT NULL,
    semantics INTEGER NOT NULL,
    CHECK ((figures IS NULL) <> (why IS NULL))
)""",
    "sweeps": """CREATE TABLE sweeps (
    name TEXT PRIMARY KEY NOT NULL,
    title TEXT NOT NULL,
    axes TEXT NOT NULL
)""",
    "asked": """CREATE TABLE asked (
    sweep TEXT NOT NULL REFERENCES sweeps (name),
    position INTEGER NOT NULL,
    key TEXT NOT NULL,
    place TEXT NOT NULL,
    PRIMARY KEY (sweep, position)
)""",
}
"""Tables by name (docs/sweeps.md says what their columns hold)."""


def check_file(path: Path) -> None:
    """Refuse a file that is no store, without opening it as a database.

    Raises:
        StoreError: no such file, unreadable, or something else.
    """
    if not os.path.lexists(path):
        raise StoreError(f"{path}: no such store; dipsim sweep STUDY --store {path} makes one")
    if not path.is_file():
        raise StoreError(f"{path}: not a dipsim store, nor a file; give the .db file of a sweep")
    try:
        with open(path, "rb") as file:
            head = file.read(100)
    except OSError as problem:
        raise StoreError(f"{path}: cannot be read ({problem.strerror})") from None
    number = head[_APPLICATION_AT : _APPLICATION_AT + 4]
    if not head.startswith(_MAGIC) or int.from_bytes(number) != APPLICATION:
        raise no_store(path)


def no_store(path: Path) -> StoreError:
    """Return the error on a file that is none of ours."""
    return StoreError(f"{path}: not a dipsim store; give the .db file of a sweep, or a new name")


def create_tables(database: sqlite3.Connection) -> None:
    """Make the tables of an empty database, in one transaction; another's stay as they are."""
    database.execute("BEGIN IMMEDIATE")  # of several processes the first makes them
    try:
        if not database.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
            for statement in TABLES.values():
                database.execute(statement)
            database.execute(f"PRAGMA application_id = {APPLICATION}")
            database.execute(f"PRAGMA user_version = {VERSION}")
        database.execute("COMMIT")
    except BaseException:
        if database.in_transaction:
            database.execute("ROLLBACK")
        raise


def check_tables(path: Path, database: sqlite3.Connection) -> None:
    """Refuse a store of another version, or one with views, triggers or tables of others.

    Raises:
        StoreError: in one line.
    """
    (version,) = database.execute("PRAGMA user_version").fetchone()
    if version != VERSION:
        age, do = ("a newer", "upgrade dipsim") if version > VERSION else ("an older", "sweep anew")
        raise StoreError(
            f"{path}: a store of {age} dipsim (version {version}; this one has {VERSION}): {do}"
        )
    made = dict(database.execute("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL"))
    if {name: sql for name, sql in made.items() if not name.startswith("sqlite_")} != TABLES:
        raise no_store(path)
