"""A back end in FastAPI that gives its users client tokens. Run it with: fastapi run fastapi_app.py"""

import os

import httpx
from fastapi import FastAPI, HTTPException

BRIDGE = os.environ["BRIDGE_URL"]  # https://bridge.example.org
KEY = os.environ["BRIDGE_KEY"]  # sk_…, made with --scopes tokens
app = FastAPI()


@app.post("/api/token")
async def token() -> dict[str, str | int]:
    """One token for one user, who has logged in: check that here."""
    wanted = {"expires_in": 60, "max_sessions": 1, "max_session": 600, "origins": ["https://app.example.org"]}
    async with httpx.AsyncClient() as client:
        answer = await client.post(f"{BRIDGE}/v1/tokens", json=wanted, auth=(KEY, ""))
    if answer.status_code != 201:
        raise HTTPException(503, "no token could be made")
    return answer.json()
