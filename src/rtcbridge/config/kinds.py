"""The kinds of values that keys of the configuration take: bounds, patterns, and how an error names them."""

from typing import Annotated

from msgspec import Meta

_YEAR = 31_536_000.0

Seconds = Annotated[float, Meta(gt=0, le=_YEAR)]
Count = Annotated[int, Meta(ge=1, le=10_000_000)]
CredentialLife = Annotated[float, Meta(ge=5, le=172_800)]
Bytes = Annotated[int, Meta(ge=1024, le=1 << 30)]
Host = Annotated[str, Meta(pattern=r"^[^\s/]{1,255}\Z", description="a host name or an address")]
Listening = Annotated[
    str,
    Meta(
        pattern=r"^(([^\s/:\[\]]{1,255}|\[[0-9A-Fa-f:.%]+\]):\d{1,5})?\Z",
        description="an address and a port such as 127.0.0.1:9464",
    ),
]
PublicUrl = Annotated[
    str,
    Meta(pattern=r"^((ws|http)s?://[^\s/?#]+[^\s?#]*)?\Z", description="a ws:// or wss:// address"),
]
_CHARACTER = r"([^\s\0%/?#@:\[\]]|%(?!00)[0-9A-Fa-f]{2})"  # of a part of a URL; others are written %40 and so on
_PLACE = rf"({_CHARACTER}*|\[[0-9A-Fa-f:.]+\])(:\d{{1,5}})?"
StoreUrl = Annotated[
    str,
    Meta(
        pattern=(
            r"^(sqlite:///[^\0?]+"
            rf"|postgres(ql)?://({_CHARACTER}+(:({_CHARACTER}|:)*)?@)?{_PLACE}(,{_PLACE})*/{_CHARACTER}+"
            rf"(\?[a-z_]+=({_CHARACTER}|[/:@])*(&[a-z_]+=({_CHARACTER}|[/:@])*)*)?)\Z"
        ),
        description=(
            "sqlite:///FILE or postgresql://USER:PASSWORD@HOST/DATABASE"
            " (with %40 for @, %2F for /, %25 for % and so on in the password)"
        ),
    ),
]
EngineUrl = Annotated[
    str,
    Meta(
        pattern=(
            rf"^(memory://|rediss?://({_CHARACTER}*(:({_CHARACTER}|:)*)?@)?{_PLACE}(/\d*)?"
            rf"|rediss?\+sentinel://({_CHARACTER}*(:({_CHARACTER}|:)*)?@)?{_PLACE}(,{_PLACE})*/{_CHARACTER}+(/\d*)?)\Z"
        ),
        description=(
            "memory://, redis://USER:PASSWORD@HOST:PORT/NUMBER, rediss://…, or redis+sentinel://HOST:PORT,HOST:PORT/NAME"
            " (with %40 for @, %2F for /, %25 for % and so on in the password)"
        ),
    ),
]
IceUrl = Annotated[
    str,
    Meta(pattern=r"^(stuns?|turns?):[^\s]{1,500}\Z", description="a stun: or turn: address"),
]
Text = Annotated[str, Meta(pattern=r"^[^\0]*\Z", description="a text")]
Argument = Annotated[str, Meta(pattern=r"^[^\0]+\Z", description="a text that is not empty")]
HttpUrl = Annotated[
    str, Meta(pattern=r"^(https?://[^\s/?#]+[^\s?#]*)?\Z", description="an http:// or https:// address")
]
DockerUrl = Annotated[
    str,
    Meta(
        pattern=r"^((unix|npipe|tcp|https?|ssh)://\S+)?\Z",
        description="an address such as unix:///run/docker.sock or tcp://host:2376",
    ),
]
Gpus = Annotated[
    str,
    Meta(
        pattern=r"^(all|[1-9]\d{0,2}|device=[^\s,]+(,[^\s,]+)*)?\Z",
        description="all, a number, or device=ID,ID",
    ),
]
Volume = Annotated[
    str,
    Meta(
        pattern=r"^(/|[A-Za-z0-9])[^:\0]*:/[^:\0]*(:[A-Za-z,]+)?\Z",
        description="SOURCE:/PATH or SOURCE:/PATH:ro, the source a volume's name or an absolute path",
    ),
]
Variable = Annotated[
    str,
    Meta(
        pattern=r"^(?!RTCBRIDGE_(NODE|POOL|URL|NODE_TOKEN)(=|\Z))[A-Za-z_][A-Za-z0-9_]*(=[^\0]*)?\Z",
        description="NAME=VALUE, or NAME for the bridge's own value; the bridge sets RTCBRIDGE_NODE and the like",
    ),
]
SshHost = Annotated[
    str,
    Meta(
        pattern=r"^([^\s@:/\[\]]{1,64}@)?([^\s@:/\[\]-][^\s@:/\[\]]{0,254}|\[[0-9A-Fa-f:.%]+\])(:[1-9]\d{0,4})?\Z",
        description="HOST, USER@HOST or USER@HOST:PORT",
    ),
]
ProviderName = Annotated[str, Meta(pattern=r"^[A-Za-z][A-Za-z0-9_-]{0,62}\Z", description="the name of a provider")]
KubeName = Annotated[
    str,
    Meta(
        pattern=r"^([a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?)?\Z",
        description="a name of Kubernetes: a-z, 0-9, '-' and '.'",
    ),
]
Quantity = Annotated[
    str,
    Meta(pattern=r"^\d+(\.\d+)?(m|k|[KMGTPE]i?)?\Z", description="a quantity of Kubernetes such as 20Gi or 500m"),
]
Resource = Annotated[
    str,
    Meta(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9./_-]*=\d+(\.\d+)?(m|k|[KMGTPE]i?)?\Z",
        description="NAME=QUANTITY such as memory=8Gi",
    ),
]
ResourceName = Annotated[
    str, Meta(pattern=r"^[a-z0-9][a-z0-9.-]*/[A-Za-z0-9._-]+\Z", description="a resource such as nvidia.com/gpu")
]
NodeLabel = Annotated[
    str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9./_-]*=[A-Za-z0-9._-]{0,63}\Z", description="LABEL=VALUE")
]
Toleration = Annotated[
    str,
    Meta(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9./_-]*(=[A-Za-z0-9._-]{0,63})?(:(NoSchedule|PreferNoSchedule|NoExecute))?\Z",
        description="KEY, KEY=VALUE or either with :EFFECT, as of `kubectl taint`",
    ),
]
MountPath = Annotated[str, Meta(pattern=r"^/[^:\0]+\Z", description="an absolute path without ':'")]
Ec2Tag = Annotated[
    str,
    Meta(pattern=r"^(?!aws:|rtcbridge:|Name=)[^\0=]{1,128}=[^\0]{0,256}\Z", description="KEY=VALUE, the key your own"),
]
SecondsOrZero = Annotated[float, Meta(ge=0, le=_YEAR)]
PoolName = Annotated[
    str,
    Meta(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}\Z",
        description="a name of 1 to 63 letters, digits, '_', '.' or '-'",
    ),
]
OtherPool = Annotated[
    str,
    Meta(pattern=r"^([A-Za-z0-9][A-Za-z0-9_.-]{0,62})?\Z", description="the name of a pool"),
]
Project = Annotated[str, Meta(pattern=r"^[A-Z0-9]{6}\Z", description="six characters A-Z 0-9")]
Cron = Annotated[str, Meta(pattern=r"^[^\0\n]{0,200}\Z", description='five fields such as "0 8 * * mon-fri"')]
Zone = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_+/-]{1,64}\Z", description="an IANA name such as Europe/Berlin")]
TimeOfDay = Annotated[str, Meta(pattern=r"^(([01]\d|2[0-3]):[0-5]\d)?\Z", description='a time of day such as "18:30"')]
Ready = Annotated[int, Meta(ge=0, le=100_000)]
NodeCount = Annotated[int, Meta(ge=0, le=10_000)]
SessionCount = Annotated[int, Meta(ge=0, le=10_000_000)]
