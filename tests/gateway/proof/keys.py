"""Who is who, in tests without a store of keys."""

import hashlib

from rtcbridge.ports import Identity

CLIENT_KEY, NODE_KEY = "sk_client", "nk_node"
_CLIENTS = {CLIENT_KEY: "TEST01", "sk_other": "TEST02"}
CLIENT_KEYS = list(_CLIENTS)  # of one project each
TAG = hashlib.blake2b(b"token-", digest_size=3).hexdigest()  # by which the reconciler knows its own machines
NODE_KEYS = {"p": NODE_KEY, "q": "nk_q"}  # by pool


class FixedKeys:
    """A fake `Authenticator`: two projects with a key for clients each, and keys of nodes.

    Static nodes have one key a pool, those that a provider makes have a token each.
    """

    def identify(self, credential: str) -> Identity | None:
        if project := _CLIENTS.get(credential):
            return Identity("client", project=project)
        pool = next((pool for pool, key in NODE_KEYS.items() if key == credential), None)
        return Identity("node", pool=pool, is_node=True) if pool else None

    def is_valid(self, key: str) -> bool:
        return True

    def changed(self) -> bool:
        return False

    def node_token(self, node: str) -> str:
        return f"token-{node}"

    def visit_token(self, visit: str, project: str, pool: str) -> str:
        return f"{visit}.{project}-{pool}"

    def write_uses(self) -> None:
        pass
