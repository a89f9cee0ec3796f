"""What the bridge stands on, behind the interfaces of `rtcbridge.ports`."""
