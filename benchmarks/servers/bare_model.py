"""A model in an app on uvicorn, one process, as one would write it by hand. Usage: bare_model.py PORT NAME"""

from __future__ import annotations

import sys

import models
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

model = models.MODELS[sys.argv[2]]()


async def answer(request: Request) -> JSONResponse:
    """The model runs on the loop: a thread for it would let others be heard meanwhile, and take longer."""
    return JSONResponse(model([await request.body()])[0])


app = Starlette(routes=[Route("/model", answer, methods=["POST"])])

if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), log_level="warning", access_log=False)
