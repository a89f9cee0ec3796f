"""The service from Python: pictures go to a node and come back.

    from rtcbridge.client import Client

    async with Client("wss://bridge.example.org", "sk_…").connect("clip.mp4", params={"style": "cartoon"}) as session:
        async for frame in session:
            print(frame.time, frame.image.shape)

`rtcbridge.client.sync` is the same without `async`, for notebooks and scripts.
"""

from rtcbridge.client.client import Client
from rtcbridge.client.control import Model
from rtcbridge.client.errors import ClientError
from rtcbridge.client.frames import Frame
from rtcbridge.client.session import Session
from rtcbridge.client.sources import Camera, File, Pictures, Source, Timed
from rtcbridge.client.states import Place, State
from rtcbridge.client.sync import connect
from rtcbridge.media import IceServer

__all__ = [
    "Camera",
    "Client",
    "ClientError",
    "File",
    "Frame",
    "IceServer",
    "Model",
    "Pictures",
    "Place",
    "Session",
    "Source",
    "State",
    "Timed",
    "connect",
]
