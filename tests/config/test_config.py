import os
import re
import tomllib
from operator import attrgetter
from pathlib import Path

import msgspec
import pytest

from rtcbridge import config
from rtcbridge.config import Config, ConfigError, IceServer, Pool
from rtcbridge.core.node import DEADLINES, duration
from rtcbridge.core.spec import PoolSpec, ProjectSpec, Window
from rtcbridge.drivers.engine import parse_engine_url

SAMPLE = Path(__file__).parents[2] / "config.sample.toml"


SCHEDULE = "[[pools]]\n[[pools.schedules]]\n{}"


@pytest.fixture
def write(tmp_path):
    def write(text):
        file = tmp_path / "bridge.toml"
        file.write_text(text)
        return file

    return write


def mistake(file=None, env=None):
    """Return the error of a configuration, and make sure that it is one line."""
    with pytest.raises(ConfigError) as caught:
        config.load(file, env or {})
    text = str(caught.value)
    assert "\n" not in text
    return text


# --- the sample documents every key ---


def keys_of(cls, prefix=""):
    """Every key of a table, tables of providers included, as `section.key`."""
    for field in msgspec.structs.fields(cls):
        if isinstance(field.type, type) and issubclass(field.type, msgspec.Struct):
            yield from keys_of(field.type, f"{prefix}{field.name}.")
        elif field.name == "pools":
            yield from keys_of(Pool, "pools.")
        else:
            yield f"{prefix}{field.name}"


def keys_in(table, prefix=""):
    for key, value in table.items():
        if isinstance(value, dict):
            yield from keys_in(value, f"{prefix}{key}.")
        elif key == "pools":
            yield from keys_in(value[0], "pools.")
        else:
            yield f"{prefix}{key}"


def test_the_sample_names_every_key_and_no_other():
    sample = set(keys_in(tomllib.loads(SAMPLE.read_text())))
    known = set(keys_of(Config))
    assert len(known) > 50
    assert sample == known


def test_every_key_of_the_sample_has_a_comment():
    lines = SAMPLE.read_text().splitlines()
    bare = [
        line
        for before, line in zip(["", *lines], lines, strict=False)
        if re.match(r"\w+ = ", line) and "#" not in line and not before.startswith("#")
    ]
    # A name is its own explanation, below the comment on its table.
    assert bare == ['name = "default"']


def test_the_sample_is_exactly_the_defaults(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("sample.toml").write_text(SAMPLE.read_text())
    assert config.load("sample.toml", {}) == Config() == config.load(None, {})


def test_the_variables_are_all_keys_outside_the_pools():
    known = {key for key in keys_of(Config) if not key.startswith("pools.") and key != "projects"}
    assert {f"{section}.{key}" for section, key in config.variables().values()} == known


# --- values ---


def test_a_file_and_the_environment_which_wins(write):
    file = write('[server]\nport = 9000\nmessage_rate = 7\n[log]\nlevel = "debug"\n')
    env = {
        "RTCBRIDGE_SERVER__PORT": "9001",
        "RTCBRIDGE_SESSIONS__MAX_SESSION": "1.5",
        "RTCBRIDGE_SERVER__TRUSTED_PROXIES": "10.0.0.0/8, ::1",
        "RTCBRIDGE_ICE__SERVERS": '[{"urls": ["turn:t.example"], "username": "u", "credential": "c"}]',
        "RTCBRIDGE_NODE": "a variable of the node's, which has no section",
        "PATH": "/bin",
    }
    found = config.load(file, env)
    assert (found.server.port, found.server.message_rate, found.log.level) == (9001, 7, "debug")
    assert found.sessions.max_session == 1.5
    assert found.server.trusted_proxies == ("10.0.0.0/8", "::1")
    assert found.ice.servers == (IceServer(urls=("turn:t.example",), username="u", credential="c"),)


@pytest.mark.parametrize("name", sorted(name for name in config.variables() if "__TLS_" not in name))
def test_every_variable_takes_its_default_as_text(name):
    section, key = config.variables()[name]
    default = attrgetter(key)(getattr(Config(), section))
    text = "" if default in ((), "") else str(default)
    found = config.load(None, {name: text})
    assert found == Config()
    assert type(attrgetter(key)(getattr(found, section))) is type(default)


def test_tables_in_a_section_have_variables_too_and_secrets_are_not_shown(write):
    file = write('[ice.coturn]\nurls = ["turn:a"]\nttl = 60\n')
    env = {"RTCBRIDGE_ICE__COTURN__SECRET": "hidden", "RTCBRIDGE_ICE__COTURN__URLS": "turn:b, turns:c"}
    found = config.load(file, env).ice.coturn
    assert (found.urls, found.secret, found.ttl) == (("turn:b", "turns:c"), "hidden", 60)
    text = mistake(file, env | {"RTCBRIDGE_ICE__COTURN__SECRET": "hidden\0"})
    assert text == "RTCBRIDGE_ICE__COTURN__SECRET: expected a text"
    assert mistake(env={"RTCBRIDGE_ICE__COTURN__URLS": "turn:b"}).startswith("ice.coturn.secret: expected a text")
    assert "did you mean RTCBRIDGE_ICE__COTURN__SECRET" in mistake(env={"RTCBRIDGE_ICE__COTURN__SECRE": "x"})


def test_relative_paths_are_relative_to_the_file_that_has_them(write):
    file = write(
        '[store]\nurl = "sqlite:///data/x.db"\n[[pools]]\n[pools.local]\nmodel = "app.py:invert"\n'
        'state = "nodes"\n[[pools]]\nname = "b"\n[pools.local]\nmodel = "package.module:invert"\n'
    )
    found = config.load(file, {})
    assert found.store.path == file.parent / "data/x.db"
    assert found.pools[0].local.model == f"{file.parent}/app.py:invert"
    assert found.pools[0].local.state == f"{file.parent}/nodes"
    assert found.pools[1].local.model == "package.module:invert"
    assert config.load(file, {"RTCBRIDGE_STORE__URL": "sqlite:///y.db"}).store.path == Path("y.db")
    absolute = write('[store]\nurl = "sqlite:////var/lib/x.db"\n')
    assert config.load(absolute, {}).store.path == Path("/var/lib/x.db")


def test_pools_become_what_the_core_wants(write):
    file = write('[[pools]]\nmin_ready = 2\nlost_timeout = 7\n[[pools]]\nname = "gpu"\nprovider = "static"\n')
    found = config.load(file, {})
    first, second = found.pool_specs()
    assert first == PoolSpec(name="default", min_ready=2, lost_timeout=7.0)
    assert second == PoolSpec(name="gpu", elastic=False)
    assert found.pool("gpu") is found.pools[1]
    assert found.pool("none") is None


def test_which_pool_serves_a_project(write):
    file = write('[[pools]]\nname = "own"\nprojects = ["TEST01"]\n[[pools]]\nname = "shared"\n')
    found = config.load(file, {})
    assert [found.pool_for("TEST01"), found.pool_for("TEST02")] == ["own", "shared"]
    assert Config(pools=found.pools[:1]).pool_for("TEST02") == "own"


def test_every_deadline_of_a_node_can_be_set(write):
    settings = sorted(set(DEADLINES.values()))
    text = "".join(f"{setting} = {number}\n" for number, setting in enumerate(settings, start=7))
    (spec,) = config.load(write(f"[[pools]]\n{text}"), {}).pool_specs()
    for state, setting in DEADLINES.items():
        assert duration(state, spec) == settings.index(setting) + 7


def test_the_defaults_of_a_pool_are_those_of_the_core():
    assert Pool().spec() == PoolSpec(name="default")


@pytest.mark.parametrize(
    ("server", "port", "url"),
    [
        ({}, None, "ws://127.0.0.1:8080/node"),
        ({"port": 0}, 1234, "ws://127.0.0.1:1234/node"),
        ({"host": "0.0.0.0"}, None, "ws://127.0.0.1:8080/node"),
        ({"host": "::"}, None, "ws://[::1]:8080/node"),
        ({"host": "bridge.example", "tls_cert": "c", "tls_key": "k"}, None, "wss://bridge.example:8080/node"),
        ({"public_url": "https://bridge.example/x/"}, 1234, "wss://bridge.example/x/node"),
        ({"public_url": "ws://b:1"}, None, "ws://b:1/node"),
    ],
)
def test_where_nodes_dial_in(server, port, url):
    assert Config(server=config.Server(**server)).node_url(port) == url


def test_projects_and_schedules_become_what_the_core_wants(write):
    file = write(
        '[[projects]]\nid = "TEST01"\npool = "gpu"\npriority = 5\nmax_sessions = 2\n[[projects]]\nid = "TEST02"\n'
        '[[pools]]\nname = "shared"\nfallback = "gpu"\n[[pools]]\nname = "gpu"\nfair = true\nmax_per_project = 3\n'
        '[[pools.schedules]]\ncron = "0 8 * * *"\nuntil = "20:00"\ntimezone = "Europe/Berlin"\nmin_ready = 2\n'
    )
    found = config.load(file, {})
    assert found.project_specs() == (
        ProjectSpec(id="TEST01", priority=5, max_sessions=2),
        ProjectSpec(id="TEST02"),
    )
    assert [found.pool_for("TEST01"), found.pool_for("TEST02")] == ["gpu", "shared"]
    shared, gpu = found.pool_specs()
    assert (shared.fallback, gpu.fair, gpu.max_per_project, gpu.overtake_timeout) == ("gpu", True, 3, 600.0)
    schedule = found.pools[1].schedules[0].compiled()
    assert schedule.window == Window(min_ready=2)
    assert schedule.look(1_764_000_000.0)[0]  # 2025-11-24, 17:00 in Berlin


@pytest.mark.parametrize("table", [config.Schedule, config.ProjectSettings])
def test_the_sample_names_the_keys_of_tables_that_it_has_not(table):
    text = SAMPLE.read_text()
    for field in msgspec.structs.fields(table):
        assert re.search(rf"^#   {field.name} = \S+", text, re.MULTILINE), field.name


# --- mistakes: one line that names the source, the key and what was expected ---


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[server]\nport = = 1", "not valid TOML: Invalid value (at line 2, column 8)"),
        ("[sevrer]", "sevrer: no such key; did you mean server?"),
        ("[server]\nprot = 1", "server.prot: no such key; did you mean port?"),
        ("server = 1", "server: expected a table, got 1"),
        ("[server]\nport = true", "server.port: expected a whole number from 0 to 65535, got true"),
        ("[server]\nport = 70000", "server.port: expected a whole number from 0 to 65535, got 70000"),
        ('[server]\nport = "80"', 'server.port: expected a whole number from 0 to 65535, got "80"'),
        ("[server]\nhost = 1", "server.host: expected a host name or an address, got 1"),
        ('[server]\npublic_url = "x"', 'server.public_url: expected a ws:// or wss:// address, got "x"'),
        (
            '[server]\nmetrics = "9464"',
            'server.metrics: expected an address and a port such as 127.0.0.1:9464, got "9464"',
        ),
        (
            '[server]\nmetrics = "[::1]:70000"',
            'server.metrics: expected a port up to 65535, got "[::1]:70000"',
        ),
        ("[server]\ntrusted_proxies = 1", "server.trusted_proxies: expected a list, each of it a text"),
        (
            '[server]\ntrusted_proxies = ["proxy"]',
            'server.trusted_proxies: expected IP addresses or networks such as 10.0.0.0/8, got "proxy"',
        ),
        ('[server]\ntls_cert = "c"', "server.tls_cert: expected a file, and "),
        ('[server]\ntls_key = "k"', "server.tls_cert: expected a file, since tls_key is set"),
        ("[server]\nmax_message = 3", "server.max_message: expected a whole number from 1024 to 1073741824, got 3"),
        ("[sessions]\nauth_timeout = 0", "expected a number above 0, at most 31536000, got 0"),
        ("[sessions]\nmax_session = nan", "sessions.max_session: expected a number from 0 to 31536000, got NaN"),
        ("[sessions]\nmax_session = inf", "expected a number from 0 to 31536000, got Infinity"),
        (
            '[store]\nurl = "mysql://x"',
            "store.url: expected sqlite:///FILE or postgresql://USER:PASSWORD@HOST/DATABASE"
            ' (with %40 for @, %2F for /, %25 for % and so on in the password), got "mysql://x"',
        ),
        (
            '[engine]\nurl = "nats://x"',
            "engine.url: expected memory://, redis://USER:PASSWORD@HOST:PORT/NUMBER, rediss://…, or"
            " redis+sentinel://HOST:PORT,HOST:PORT/NAME (with %40 for @, %2F for /, %25 for % and so on in the"
            ' password), got "nats://x"',
        ),
        (
            '[engine]\nurl = "redis://x"\n[[pools]]\nfair = true',
            '[[pools]] "default": fair: expected nothing, since engine.url is not memory://',
        ),
        (
            '[engine]\nurl = "redis://x"\n[[projects]]\nid = "TEST01"\nmax_sessions = 3',
            "projects[0].max_sessions: expected nothing, since engine.url is not memory://",
        ),
        ('[log]\nlevel = "loud"', 'log.level: expected one of debug, error, info, warning, got "loud"'),
        ("[ice]\nservers = [3]", "ice.servers[0]: expected a table, got 3"),
        ("[ice]\nservers = [{}]", "ice.servers[0].urls: expected at least one address"),
        ('[ice]\nservers = [{urls = ["http://x"]}]', "ice.servers[0].urls: expected a list, each of it a stun:"),
        ('[ice]\nservers = [{urls = ["turn:x"]}]', "ice.servers[0]: expected username and credential"),
        ('[ice]\npolicy = "none"', 'ice.policy: expected one of all, relay, got "none"'),
        ('[ice]\npolicy = "relay"', "ice.policy: expected a TURN server in [ice]"),
        ('[ice]\npolicy = "relay"\nservers = [{urls = ["stun:x"]}]', "ice.policy: expected a TURN server in [ice]"),
        ('[ice.coturn]\nurls = ["turn:x"]', "ice.coturn.secret: expected a text"),
        ('[ice.coturn]\nsecret = "hidden"', "ice.coturn.urls: expected at least one address"),
        ("[ice.coturn]\nttl = 1", "ice.coturn.ttl: expected a number from 5 to 172800, got 1"),
        ('[ice.cloudflare]\nkey_id = "x"', "ice.cloudflare.api_token: expected a text"),
        ('[ice.cloudflare]\napi_token = "x"', "ice.cloudflare.key_id: expected a text"),
        ('[ice.twilio]\naccount_sid = "AC1"', "ice.twilio.auth_token: expected a text, or else api_key and api_secret"),
        ('[ice.twilio]\nauth_token = "x"', "ice.twilio.account_sid: expected a text"),
        ('[ice.twilio]\naccount_sid = "AC1"\napi_key = "SK1"', "ice.twilio.api_secret: expected a text"),
        ("[ice.twilio]\nttl = 100000", "ice.twilio.ttl: expected at most 86400"),
        ("pools = []", "pools: expected at least one pool"),
        ("[pools]", "pools: expected a list of tables, got a table"),
        ("[[pools]]\nslots = 0", '[[pools]] "default": slots: expected a whole number from 1 to 1000, got 0'),
        ('[[pools]]\nname = "a b"', '[[pools]] "a b": name: expected a name of 1 to 63 letters'),
        ('[[pools]]\nname = "../x"', "name: expected a name of 1 to 63 letters"),
        ('[[pools]]\nprojects = ["test"]', "projects: expected a list, each of it six characters A-Z 0-9"),
        ("[[pools]]\nname = 3", "[[pools]] 3: name: expected a name"),
        ("[[pools]]\n[[pools]]", '[[pools]] "default": name: expected a name of its own, another pool has this'),
        (
            '[[pools]]\nprovider = "x"',
            'provider: expected one of command, docker, ec2, kubernetes, local, ssh, static, got "x"',
        ),
        ("[[pools]]\nprovider = 3", '[[pools]] "default": provider: expected the name of a provider, got 3'),
        ('[[pools]]\nprovider = "kubernetes"', "kubernetes.image: expected the name of an image, or a pod_template"),
        (
            '[[pools]]\nprovider = "kubernetes"\n[pools.kubernetes]\nimage = "i"\npod_template = "none"',
            "kubernetes.pod_template: expected a file, and ",
        ),
        ('[[pools]]\n[pools.kubernetes]\nrequests = ["cpu"]', "kubernetes.requests: expected a list, each of it NAME="),
        (
            '[[pools]]\n[pools.kubernetes]\ntolerations = ["a:Never"]',
            "kubernetes.tolerations: expected a list, each of",
        ),
        ('[[pools]]\n[pools.kubernetes]\nvolume_size = "10GB"', "kubernetes.volume_size: expected a quantity of Kube"),
        ('[[pools]]\n[pools.kubernetes]\nnamespace = "A"', "kubernetes.namespace: expected a name of Kubernetes"),
        ("[[pools]]\nmin_ready = 5", "min_ready: expected at most max_nodes times slots = 4, got 5"),
        ('[[pools]]\nprovider = "command"', '[[pools]] "default": command.create: expected a shell command'),
        (
            '[[pools]]\nprovider = "command"\n[pools.command]\ncreate = "a"\nstart = "b"\ndestroy = "d"',
            "command.stop: expected a shell command",
        ),
        ('[[pools]]\nprovider = "docker"', "docker.image: expected the name of an image"),
        ('[[pools]]\n[pools.docker]\ngpus = "0"', "docker.gpus: expected all, a number, or device=ID,ID"),
        ('[[pools]]\n[pools.docker]\nvolumes = ["a"]', "docker.volumes: expected a list, each of it SOURCE:/PATH or"),
        ('[[pools]]\n[pools.docker]\nenv = ["RTCBRIDGE_URL=x"]', "docker.env: expected a list, each of it NAME=VALUE"),
        ('[[pools]]\nprovider = "ssh"', "ssh.hosts: expected at least one host"),
        (
            '[[pools]]\n[pools.ssh]\nhosts = ["-oProxyCommand=x"]',
            "ssh.hosts: expected a list, each of it HOST, ",
        ),
        (
            '[[pools]]\nprovider = "ssh"\n[pools.ssh]\nhosts = ["a", "b", "a"]',
            "ssh.hosts: expected each host once",
        ),
        ('[[pools]]\nprovider = "ssh"\n[pools.ssh]\nhosts = ["a"]', "ssh.command: expected a shell command that runs"),
        (
            '[[pools]]\nprovider = "ssh"\n[pools.ssh]\nhosts = ["u@a:2"]\ncommand = "x"\nkey = "none"',
            "ssh.key: expected a file, and ",
        ),
        ("[[pools]]\nmax_per_project = -1", "max_per_project: expected a whole number from 0 to 10000000, got -1"),
        ("[[pools]]\nfair = 1", '"default": fair: expected true or false, got 1'),
        ('[[pools]]\nfallback = "b"', "fallback: expected the name of another pool, and there is no b"),
        ('[[pools]]\nfallback = "default"', "fallback: expected no way back to a pool, got default → default"),
        (
            '[[pools]]\nname = "a"\nfallback = "b"\n[[pools]]\nname = "b"\nfallback = "a"',
            '[[pools]] "a": fallback: expected no way back to a pool, got a → b → a',
        ),
        (
            SCHEDULE.format('cron = "0 8 * *"\nduration = 60\nmin_ready = 1'),
            '"default": schedules[0].cron: expected five fields such as "0 8 * * mon-fri", got "0 8 * *"',
        ),
        (
            SCHEDULE.format('cron = "0 25 * * *"\nduration = 60\nmin_ready = 1'),
            'schedules[0].cron: expected five fields such as "0 8 * * mon-fri", got "0 25 * * *": bad hour',
        ),
        (SCHEDULE.format('cron = "0 0 31 2 *"\nduration = 60\nmin_ready = 1'), "schedules[0].cron: expected five"),
        (SCHEDULE.format("cron = 8"), 'schedules[0].cron: expected five fields such as "0 8 * * mon-fri", got 8'),
        (
            SCHEDULE.format('cron = "* * * * *"\nduration = 60\nmin_ready = 1\ntimezone = "Mars/Olympus"'),
            'schedules[0].timezone: expected an IANA name such as Europe/Berlin, got "Mars/Olympus"',
        ),
        (
            SCHEDULE.format('cron = "* * * * *"\nduration = 60\nmin_ready = 1\ntimezone = "../etc/passwd"'),
            "schedules[0].timezone: expected an IANA name",
        ),
        (SCHEDULE.format('cron = "* * * * *"\nmin_ready = 1'), "schedules[0].duration: expected either a duration"),
        (
            SCHEDULE.format('cron = "* * * * *"\nduration = 1\nuntil = "18:00"\nmin_ready = 1'),
            "schedules[0].duration: expected either a duration in seconds, or until",
        ),
        (SCHEDULE.format('cron = "* * * * *"\nuntil = "24:00"'), "schedules[0].until: expected a time of day such as"),
        (SCHEDULE.format('cron = "* * * * *"\nduration = 1'), "schedules[0].min_ready: expected min_ready, max_nodes"),
        (SCHEDULE.format("min_ready = true"), "schedules[0].min_ready: expected a whole number from 0 to 100000, got"),
        (
            SCHEDULE.format('cron = "* * * * *"\nduration = 1\nmin_ready = 9'),
            "schedules[0].min_ready: expected at most max_nodes times slots = 4, got 9",
        ),
        (SCHEDULE.format("min_raedy = 9"), "schedules[0].min_raedy: no such key; did you mean min_ready?"),
        ("[[projects]]", "projects[0].id: expected six characters A-Z 0-9"),
        ('[[projects]]\nid = "x"', "projects[0].id: expected six characters A-Z 0-9"),
        ('[[projects]]\nid = "TEST01"\npriority = 101', "projects[0].priority: expected a whole number from -100 to"),
        ('[[projects]]\nid = "TEST01"\n[[projects]]\nid = "TEST01"', "projects[1].id: expected an id of its own"),
        ('[[projects]]\nid = "TEST01"\npool = "b"', "projects[0].pool: expected the name of a pool, and there is no b"),
        (
            '[[projects]]\nid = "TEST01"\npool = "a"\n[[pools]]\nname = "a"\n'
            '[[pools]]\nname = "b"\nprojects = ["TEST01"]',
            "projects[0].pool: expected b, which names this project, or nothing, got a",
        ),
        (
            '[[projects]]\nid = "TEST01"\npool = "a"\n[[pools]]\nname = "a"\nprojects = ["ACME01"]',
            "projects[0].pool: expected a pool whose projects name TEST01, or are empty, got a",
        ),
        ("projects = 3", "projects: expected a list of tables, got 3"),
        ("[[pools]]\n[pools.local]\nmodle = 1", '[[pools]] "default": local.modle: no such key; did you mean model?'),
    ],
)
def test_mistakes_in_a_file(write, text, expected):
    file = write(text)
    found = mistake(file)
    assert found.startswith(f"{file}: ")
    assert expected in found


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("RTCBRIDGE_SERVER__PORT", "x", 'expected a whole number from 0 to 65535, got "x"'),
        ("RTCBRIDGE_SERVER__PROT", "1", "no such key; did you mean RTCBRIDGE_SERVER__PORT?"),
        ("RTCBRIDGE_POOLS__SLOTS", "1", "pools can be set only in the configuration file, under [[pools]]"),
        ("RTCBRIDGE_PROJECTS__ID", "1", "projects can be set only in the configuration file, under [[projects]]"),
        ("RTCBRIDGE_ICE__SERVERS", "[{", "expected a list in JSON: "),
        ("RTCBRIDGE_SERVER__TRUSTED_PROXIES", "x", "expected IP addresses"),
        ("RTCBRIDGE_SERVER__TLS_CERT", "/no/such", "expected a file, and /no/such is none"),
    ],
)
def test_mistakes_in_the_environment(name, value, expected):
    found = mistake(env={name: value})
    assert found.startswith(name)
    assert expected in found


def test_a_secret_of_a_wrong_type_is_not_shown(write):
    found = mistake(write('[ice]\nservers = [{urls = ["stun:x"], credential = 12345678}]'))
    assert "ice.servers[0].credential: expected a text" in found
    assert "12345678" not in found


def test_long_values_are_cut(write):
    assert len(mistake(write(f'[log]\nlevel = "{"x" * 10_000}"'))) < 300


def test_files_that_cannot_be_read(tmp_path):
    missing = tmp_path / "no.toml"
    assert mistake(missing) == f"{missing}: cannot be read: No such file or directory"
    assert mistake(tmp_path) == f"{tmp_path}: cannot be read: Is a directory"
    binary = tmp_path / "binary.toml"
    binary.write_bytes(b"\xff\xfe")
    assert mistake(binary) == f"{binary}: expected a text file in UTF-8"


def test_the_table_of_another_provider_is_checked_all_the_same(write):
    found = mistake(write("[[pools]]\n[pools.command]\ntimeout = -1"))
    assert "command.timeout: expected a number above 0" in found


def test_the_process_environment_is_the_default(monkeypatch):
    for name in [name for name in os.environ if name.startswith("RTCBRIDGE_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("RTCBRIDGE_SERVER__PORT", "4242")
    assert config.load().server.port == 4242


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://user:pass@host/db",
        "postgres://user:p%40s%2Fs:w@db.example.org:6432/rtc_bridge?sslmode=verify-full&sslrootcert=/etc/ca.pem",
        "postgresql://user@a:5432,b:5433/db?target_session_attrs=read-write",
        "postgresql://[::1]:5432/db",
        "postgresql:///db?host=/run/postgresql&user=rtcbridge",
        "postgresql://%2Frun%2Fpostgresql/db",
    ],
)
def test_stores_in_postgresql(write, url):
    file = write(f'[store]\nurl = "{url}"\n')
    found = config.load(file, {})
    assert (found.store.url, found.store.path) == (url, None)
    assert config.load(None, {"RTCBRIDGE_STORE__URL": url}).store.url == url


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://user:se@cret@host/db",
        "postgresql://user:se/cret@host/db",
        "postgresql://user:se#cret@host/db",
        "postgresql://user:se?cret@host/db",
        "postgresql://user:se cret@host/db",
        "postgresql://user:cret%zz@host/db",
        "postgresql://user:cret%00@host/db",
        "postgresql://user:cret@host",
        "postgresql://user:cret@host/",
        "postgresql://user:cret@host:port/db",
        "postgres//user:cret@host/db",
        "postgresql:user:cret@host/db",
        "user:cret@host/db",
        "mysql://user:cret@host/db",
        "postgresql://host/d b?password=cret",
        "postgresql://user:cret",
    ],
)
def test_a_store_that_is_not_understood_is_told_without_its_password(url):
    with pytest.raises(ConfigError) as raised:
        config.load(None, {"RTCBRIDGE_STORE__URL": url})
    text = str(raised.value)
    assert text.startswith("RTCBRIDGE_STORE__URL: expected sqlite:///FILE or postgresql://")
    assert "cret" not in text


@pytest.mark.parametrize(
    "url",
    [
        "redis://localhost",
        "redis://:s%40crt@[::1]:6380/3",
        "rediss://user:secret@valkey.example.org:6379/0",
        "redis+sentinel://a:26379,b:26379/service/1",
    ],
)
def test_an_engine_that_bridges_share(url: str, tmp_path: Path) -> None:
    file = tmp_path / "bridge.toml"
    file.write_text(f'[engine]\nurl = "{url}"\n')
    engine = config.load(file).engine
    assert (engine.url, engine.is_shared) == (url, True)
    parse_engine_url(url)
