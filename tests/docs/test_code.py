"""The code blocks of the documents: Python runs, TOML is a configuration, JavaScript is in what is tested."""

import ast
import re
import tomllib
from pathlib import Path

import numpy as np
import pytest

from docs.pages import PAGES, ROOT, Block, blocks, every, inline
from rtcbridge import config
from rtcbridge.node.loader import load_model
from rtcbridge.node.model import Model
from rtcbridge.node.models import BUILT_IN
from rtcbridge.node.params import defaults

LANGUAGES = {"sh", "python", "toml", "json", "js", "ts", "mermaid", "ini", "conf", "nginx", "yaml"}


def models(block: Block) -> list[str]:
    """The names of what the block decorates with `@rtcbridge.model`."""
    return [
        node.name
        for node in ast.parse(block.text).body
        if isinstance(node, ast.FunctionDef | ast.ClassDef)
        if any(ast.unparse(decorator).startswith("rtcbridge.model") for decorator in node.decorator_list)
    ]


def anonymous(language: str) -> list[Block]:
    """The blocks without a file name: those with one belong together, and their page has a test of its own."""
    return [block for block in blocks(language) if not block.info]


def test_there_are_blocks_to_check() -> None:
    assert len(blocks("python")) >= 5
    assert len(blocks("toml")) >= 6
    assert {block.language for block in _all()} == LANGUAGES | {""}


def _all() -> list[Block]:
    return [block for page in PAGES for block in every(page)]


@pytest.mark.parametrize("block", anonymous("python"), ids=[block.where for block in anonymous("python")])
def test_every_model_runs(block: Block, tmp_path: Path) -> None:
    file = tmp_path / f"page_{abs(hash(block.where))}.py"
    file.write_text(block.text)
    assert models(block), "a Python block that is no model needs a check of its own"
    for name in models(block):
        model = Model(load_model(f"{file}:{name}"))
        model.setup()
        values, state = defaults(model.spec.params), model.open_session()
        ramp = np.linspace(0, 255, 64 * 48 * 3).astype(np.uint8).reshape(48, 64, 3)
        for _ in range(2):
            result = model.process(ramp.copy(), values, state)
        assert result.shape == ramp.shape
        model.close_session(state)
        if name == "invert":
            assert (result == 255 - ramp).all()


@pytest.mark.parametrize("block", anonymous("toml"), ids=[block.where for block in anonymous("toml")])
def test_every_configuration_is_one(block: Block, tmp_path: Path) -> None:
    text = block.text
    for key in ("tls_cert", "tls_key"):  # the files have to be there
        (tmp_path / key).touch()
        text = re.sub(rf'^{key} = ".*?"', f'{key} = "{tmp_path / key}"', text, flags=re.MULTILINE)
    file = tmp_path / "bridge.toml"
    file.write_text(text)
    found = config.load(file, {})
    given = tomllib.loads(text)
    assert given
    for table, pool in zip(given.get("pools", []), found.pools, strict=False):
        assert pool.provider == table["provider"]


def test_what_the_pages_show_of_the_example_is_in_it() -> None:
    example = (ROOT / "examples" / "plain.html").read_text()
    shown = blocks("js")
    assert len(shown) >= 4
    for block in shown:
        assert block.text in example, block.where


def test_the_clients_names_in_the_readme_are_in_the_client() -> None:
    """What the README does with the TypeScript client, the client has."""
    source = {path.stem: path.read_text() for path in (ROOT / "sdk" / "js" / "src").glob("*.ts")}
    package = re.search(r'"name": "(.+)"', (ROOT / "sdk" / "js" / "package.json").read_text())
    assert package
    for block in anonymous("ts"):
        imported = re.findall(r'import \{ (.+?) \} from "(.+)"', block.text)
        assert imported
        assert {module for _, module in imported} == {package[1]}
        assert all(f"export function {name}" in source["index"] for names, _ in imported for name in names.split(", "))
        for call, known in (("createClient", "ClientOptions"), ("client.connect", "ConnectOptions")):
            interface = re.search(rf"interface {known} \{{(.*?)\n\}}", source["index"], re.DOTALL)
            assert interface
            fields = set(re.findall(r"^  (\w+)\??:", interface[1], re.MULTILINE))
            given = option_names(block.text, call)
            assert given
            assert given <= fields, call
        events = re.search(r"interface SessionEvents \{(.*?)\n\}", source["types"], re.DOTALL)
        assert events
        for event in re.findall(r'session\.on\("(\w+)"', block.text):
            assert re.search(rf"^  {event}:", events[1], re.MULTILINE), event
        for method in set(re.findall(r"session\.(\w+)\(", block.text)) - {"on"}:
            assert re.search(rf"^  (?:async )?{method}\(", source["session"], re.MULTILINE), method


def option_names(text: str, call: str) -> set[str]:
    """The names of the options in `call({ name: value, … })`."""
    outside, depth = "", 0
    for character in text[text.index(f"{call}({{") + len(call) :]:
        depth += (character in "({[") - (character in ")}]")
        if depth == 0:
            break
        if depth == 2:
            outside += character
    return {option.strip(" {\n").partition(":")[0] for option in outside.split(",")} - {""}


def test_models_that_are_called_built_in_are() -> None:
    page = ROOT / "docs" / "how-to" / "write-a-model.md"
    named = inline(page)
    start = named.index("package.module:Posterize") + 1
    assert set(named[start : start + len(BUILT_IN)]) == set(BUILT_IN)
