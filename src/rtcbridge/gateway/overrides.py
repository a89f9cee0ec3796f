"""Settings of pools that are changed while the bridge runs. They are kept in the store, and survive it."""

import asyncio
import json
from collections.abc import Mapping, Sequence

import structlog

from rtcbridge.config import ConfigError, override
from rtcbridge.core.pool import Pool
from rtcbridge.core.spec import PoolSpec
from rtcbridge.gateway.bridge import Bridge
from rtcbridge.gateway.views import Override
from rtcbridge.ports import LedgerError, OverrideRow

log = structlog.get_logger(__name__)

_FOLLOW = 2.0  # seconds between looks at what other bridges have changed


class Overrides:
    """What is changed, pool by pool.

    Args:
        bridge: Its pools are told to be what is in force.
    """

    def __init__(self, bridge: Bridge) -> None:
        self._bridge = bridge
        self._values: dict[str, dict[str, float]] = {}
        self._rows: dict[str, OverrideRow] = {}  # as they were last read
        self._lock = asyncio.Lock()

    def restore(self) -> None:
        """Put what is stored in force, before anything else is taken up. What no longer fits is left out."""
        self.take(self._bridge.ledger.overrides())

    async def follow(self) -> None:
        """Put in force, again and again, what another bridge has stored."""
        while True:
            await asyncio.sleep(_FOLLOW)
            async with self._lock:  # else it would undo what is changed here meanwhile
                try:
                    self.take(await asyncio.to_thread(self._bridge.ledger.overrides))
                except LedgerError as error:
                    log.warning("settings that were changed elsewhere cannot be read", error=str(error))

    def take(self, rows: Sequence[OverrideRow]) -> None:
        """Put rows in force that are not, and end those that are not among them."""
        for name in self._values.keys() - {row.pool for row in rows}:
            own = self._bridge.pools[name]
            self._put(own, {}, self._spec(own, {}))
            del self._values[name]
            self._rows.pop(name, None)
        for row in rows:
            if self._rows.get(row.pool) == row:
                continue
            self._rows[row.pool] = row
            pool = self._bridge.pools.get(row.pool)
            try:
                if pool is None:
                    raise ConfigError(f"there is no pool {row.pool} any more")
                values = json.loads(row.settings)
                spec = self._spec(pool, values)
            except ConfigError as error:
                log.warning("settings that were changed at run time no longer fit", pool=row.pool, error=str(error))
                continue
            self._put(pool, values, spec)
            log.info("settings changed at run time", pool=row.pool, key=row.key, **values)

    def of(self, pool: Pool) -> dict[str, Override]:
        """Return what is changed of a pool."""
        config = self._bridge.config.pool(pool.spec.name)
        return {
            name: Override(value=value, config=getattr(config, name))
            for name, value in self._values.get(pool.spec.name, {}).items()
        }

    async def change(self, pool: Pool, changes: Mapping[str, object], key: str) -> None:
        """Put new values in force once they are stored; None means again what the configuration says.

        Args:
            pool: Whose settings.
            changes: The values by their names.
            key: Who changes them.

        Raises:
            ConfigError: A value is not allowed; nothing has changed.
            LedgerError: It cannot be stored; nothing has changed.
        """
        name, ledger = pool.spec.name, self._bridge.ledger
        async with self._lock:
            merged = {**self._values.get(name, {}), **changes}
            wanted = {setting: value for setting, value in merged.items() if value is not None}
            spec = self._spec(pool, wanted)
            values: dict[str, float] = {setting: getattr(spec, setting) for setting in wanted}
            if values:
                row = OverrideRow(pool=name, settings=json.dumps(values), changed=self._bridge.wall(), key=key)
                await ledger.save_override(row)
            else:
                await ledger.delete_override(name)
            self._put(pool, values, spec)

    def _spec(self, pool: Pool, values: Mapping[str, object]) -> PoolSpec:
        """The pool as it would be with these values over its configuration. Raises ConfigError."""
        config = self._bridge.config.pool(pool.spec.name)
        assert config is not None, "every pool has its table"
        return override(config, values).spec()

    def _put(self, pool: Pool, values: dict[str, float], spec: PoolSpec) -> None:
        self._values[pool.spec.name] = values
        pool.reshape(spec, pinned=values)  # what an operator sets goes before what a schedule says
        self._bridge.settle(pool)  # those in line may hear another status now
        self._bridge.changed(pool)
