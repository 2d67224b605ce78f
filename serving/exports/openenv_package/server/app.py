"""The application that `openenv.yaml` names: `uvicorn server.app:app`, or `python -m ftrl_tools.server.app`."""

from __future__ import annotations

import os

import uvicorn
from openenv.core.env_server.http_server import create_app
from openenv.core.env_server.mcp_types import CallToolAction, CallToolObservation

try:
    from .environment import FtrlToolsEnvironment, StartObservation
except ImportError:  # started in the folder itself
    from server.environment import FtrlToolsEnvironment, StartObservation  # type: ignore[no-redef]

app = create_app(
    FtrlToolsEnvironment,
    CallToolAction,
    CallToolObservation,
    env_name="ftrl_tools",
    max_concurrent_envs=int(os.environ.get("MAX_CONCURRENT_ENVS", "2048")),
    reset_observation_cls=StartObservation,
)


def main() -> None:
    """Serve on HOST and PORT."""
    uvicorn.run(app, host=os.environ.get("HOST", "127.0.0.1"), port=int(os.environ.get("PORT", "8000")))


if __name__ == "__main__":
    main()
