"""docs/admin-api.md against the code: its examples are what the API shows, and every path is on the page."""

import json
import re
from typing import Any

import msgspec
import pytest
from starlette.routing import Route

from docs.pages import ROOT, blocks
from rtcbridge.config import RUN_TIME_SETTINGS, Config, Pool, override
from rtcbridge.gateway.admin import MAX_PAGE, MAX_PAGE_BYTES, Admin
from rtcbridge.gateway.bodies import MAX_BODY
from rtcbridge.gateway.bridge import Bridge
from rtcbridge.gateway.timers import TimerWheel
from rtcbridge.gateway.views import BridgeView, NodeView, PoolView, SessionView

PAGE = ROOT / "docs" / "admin-api.md"
TEXT = PAGE.read_text()
EXAMPLES = [json.loads(block.text) for block in blocks("json", pages=[PAGE])]


@pytest.mark.parametrize("view", [BridgeView, PoolView, NodeView, SessionView])
def test_every_view_has_an_example_with_all_its_fields(view: type[msgspec.Struct]) -> None:
    fields = list(view.__struct_fields__)
    (example,) = [example for example in EXAMPLES if list(example) == fields]
    assert msgspec.to_builtins(msgspec.convert(example, view)) == example


def test_every_path_is_on_the_page_and_no_other() -> None:
    unused: Any = None
    app: Any = Admin(Bridge(Config(), unused, unused, TimerWheel(unused), lambda: 0.0)).app()
    paths = {
        f"{method} /v1/admin{route.path}"
        for route in app.routes
        if isinstance(route, Route)
        for method in (route.methods or set()) - {"HEAD"}
    }
    actions = {f"POST /v1/admin/nodes/{{node}}/{action}" for action in ("drain", "stop", "start", "destroy")}
    paths = paths - {"POST /v1/admin/nodes/{node}/{action}"} | actions
    assert set(re.findall(r"`((?:GET|POST|PATCH) /v1/[^`]+)`", TEXT)) == paths


def test_the_settings_that_may_be_changed_are_on_the_page() -> None:
    paragraph = next(part for part in TEXT.split("\n\n") if part.startswith("`PATCH"))
    assert set(re.findall(r"`(\w+_?\w+)`", paragraph)) == set(RUN_TIME_SETTINGS)
    changes = next(example for example in EXAMPLES if set(example) == {"max_nodes", "min_ready"})
    assert override(Pool(), {name: value for name, value in changes.items() if value is not None}).max_nodes == 8


def test_bounds_are_those_of_the_code() -> None:
    assert f"1 to {MAX_PAGE}," in TEXT
    assert f"above {MAX_PAGE_BYTES >> 20} MiB" in TEXT
    assert f"over {MAX_BODY >> 10} KiB" in TEXT
