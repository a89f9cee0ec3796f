"""Write a client's messages in TypeScript, from `protocol/schema.json`: `python tools/wire_types.py [--check]`."""

import argparse
import json
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
SCHEMA = ROOT / "protocol" / "schema.json"
TARGET = ROOT / "sdk" / "js" / "src" / "wire.generated.ts"
DIRECTIONS = ("FromClient", "ToClient", "FromExtendedClient", "ToExtendedClient")

HEAD = """\
/**
 * The messages between a client and the bridge.
 *
 * Generated from protocol/schema.json by tools/wire_types.py; do not edit.
 */
"""
SIMPLE = {"string": "string", "integer": "number", "number": "number", "boolean": "boolean", "null": "null"}
OBJECT = "Record<string, unknown>"
WIDTH = 110  # of a line, as in sdk/js/package.json

Part = dict[str, Any]


def expression(part: Part) -> str:
    """The TypeScript type that a part of the schema stands for. Raises ValueError for what it does not know."""
    match part:
        case {"$ref": reference}:
            return str(reference).rpartition("/")[2]
        case {"enum": values}:
            return " | ".join(json.dumps(value) for value in values)
        case {"anyOf": parts}:
            return " | ".join(dict.fromkeys(map(expression, parts)))
        case {"type": "array", "items": items}:
            inner = expression(items)
            return f"({inner})[]" if "|" in inner else f"{inner}[]"
        case {"type": "object"} if "properties" not in part:
            return OBJECT
        case {"type": kind} if kind in SIMPLE:
            return SIMPLE[kind]
    raise ValueError(f"no type is known for {json.dumps(part)}")


def declaration(name: str, part: Part) -> str:
    """An interface for an object with fields, or else a type; laid out as prettier does."""
    comment = f"/** {part['description']} */\n"
    if len(comment) > WIDTH + 1:
        lines = textwrap.wrap(part["description"], WIDTH - 4)
        comment = "/**\n" + "".join(f" * {line}\n" for line in lines) + " */\n"
    if "properties" not in part:
        line = f"export type {name} = {expression(part)};\n"
        if len(line) > WIDTH + 1:
            line = line.replace(" = ", " =\n  | ").replace(" | ", "\n  | ").replace("\n \n", "\n")
        return comment + line
    required = part.get("required", [])
    fields = "".join(
        f"  {field}{'' if field in required else '?'}: {expression(of)};\n" for field, of in part["properties"].items()
    )
    return f"{comment}export interface {name} {{\n{fields}}}\n"


def reachable(parts: dict[str, Part]) -> Iterator[str]:
    """The names of the directions, and of all that they refer to, in the order of the schema."""
    found, left = set[str](), list(DIRECTIONS)
    while left:
        name = left.pop()
        if name not in found:
            found.add(name)
            left += [word for word in parts if f'"#/$defs/{word}"' in json.dumps(parts[name])]
    return (name for name in parts if name in found)


def document(schema: Part) -> str:
    """The text of the file."""
    parts: dict[str, Part] = schema["$defs"]
    return "\n".join([HEAD, *(declaration(name, parts[name]) for name in reachable(parts))])


def main() -> int:
    """Write the file, or with `--check` say whether it is current. Returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; status 1 if the file is not current")
    check = parser.parse_args().check
    wanted = document(json.loads(SCHEMA.read_text()))
    if TARGET.exists() and TARGET.read_text() == wanted:
        return 0
    if check:
        print(f"{TARGET.name} is not current: run `make docs`", file=sys.stderr)
        return 1
    TARGET.write_text(wanted)
    return 0


if __name__ == "__main__":
    sys.exit(main())
