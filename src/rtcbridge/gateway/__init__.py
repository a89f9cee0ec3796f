"""The bridge server: sockets, connections, relay, and the HTTP beside them."""
