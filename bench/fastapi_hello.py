"""FastAPI under uvicorn, which says hello and that it is ready: PORT."""

import sys

import uvicorn
from fastapi import FastAPI

app = FastAPI()


@app.get("/readyz")
async def readyz() -> str:
    """Say hello."""
    return "hello"


if __name__ == "__main__":
    uvicorn.run(app, port=int(sys.argv[1]), log_config=None, access_log=False)
