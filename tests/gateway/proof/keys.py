"""Who is who, in tests without a store of keys."""

from rtcbridge.ports import Identity

CLIENT_KEY, NODE_KEY = "sk_client", "nk_node"


class FixedKeys:
    """A fake `Authenticator`: one key for clients, one for static nodes of the pool `p`, a token for each node."""

    def identify(self, credential: str) -> Identity | None:
        if credential == CLIENT_KEY:
            return Identity("client", project="TEST01")
        return Identity("node", pool="p", is_node=True) if credential == NODE_KEY else None

    def identify_admin(self, credential: str) -> str | None:
        return None

    def is_valid(self, key: str) -> bool:
        return True

    def changed(self) -> bool:
        return False

    def node_token(self, node: str) -> str:
        return f"token-{node}"
