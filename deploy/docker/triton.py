"""Triton for the CPU in its container, with the files of the wheel that `slipway up` uses.

python -m deploy.docker.triton install RUN_FOLDER         while the image is built
python -m deploy.docker.triton serve RUN_FOLDER MODELS    in the container, with SLIPWAY_TRITON_ADMIN_KEY
"""

import os
import sys
from pathlib import Path

from deploy.local.triton import Ports, build_command, build_environment, find_engine, prepare_run_folder

ENGINE = Path("/opt/slipway")
PORTS = Ports(http=8000, grpc=8001, metrics=8002)
ANYWHERE = "0.0.0.0"  # noqa: S104 - a container's own network
EXIT_TIMEOUT_S = 60
KEY = "SLIPWAY_TRITON_ADMIN_KEY"


def serve(run_folder: Path, models: Path) -> None:
    """Replace this process with tritonserver; exit with a message if the admin key is not set."""
    key = os.environ.get(KEY)
    if not key:
        sys.exit(f"triton: {KEY} is not set: choose one, and give it to the agent (TRITON_AGENT_ADMIN_KEY), too")
    engine = find_engine(ENGINE)
    command = build_command(
        engine, run_folder, PORTS, admin_key=key, exit_timeout_s=EXIT_TIMEOUT_S, models=models, address=ANYWHERE
    )
    os.execve(command[0], command, build_environment(engine, run_folder, os.environ))  # noqa: S606 - an argument list


def main(arguments: list[str]) -> None:
    """Run the command that the arguments name."""
    match arguments:
        case ["install", run_folder]:
            prepare_run_folder(find_engine(ENGINE), Path(run_folder))
        case ["serve", run_folder, models]:
            serve(Path(run_folder), Path(models))
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main(sys.argv[1:])
