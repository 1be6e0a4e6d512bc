"""Runs the pretraining without an end in a process of its own, with the lowest priority and one thread."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from toolkit.core.errors import CastmixError
from toolkit.core.files import write_atomic

DEFAULT_FOLDER = Path("~/castmix-base")
LOCK, LOG, FAILURE = "process.json", "log.txt", "failure.txt"


def start(folder: Path, options: dict[str, Any]) -> str:
    """Start the run in a folder, or go on with it. Returns a message for the user.

    Args:
        folder: Folder of the run.
        options: Arguments of `endless.train`.

    Raises:
        CastmixError: The folder cannot be written, or the process ended at once. The message has the end of
            its output.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / LOG).touch()
    except OSError as error:
        raise CastmixError(
            f"--out {folder} cannot be written ({error}): choose a folder of your own"
        ) from error
    if (process := running(folder)) is not None:
        return f"already running: process {process or 'just started'}, {folder}"
    with (folder / LOG).open("a") as log:
        child = subprocess.Popen(
            [sys.executable, "-m", __name__, str(folder), json.dumps(options)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=os.environ | {"OMP_NUM_THREADS": "1", "TORCHINDUCTOR_COMPILE_THREADS": "1"},
            start_new_session=True,
        )
    while running(folder) != child.pid:
        if child.poll() is not None:
            end = "\n".join((folder / LOG).read_text().splitlines()[-5:])
            raise CastmixError(f"the training ended at once, see {folder / LOG}:\n{end}")
        time.sleep(0.1)
    return (
        f"training in the background: process {child.pid}, {folder}\n"
        f"look at it:  castmix sandbox pretrain --status {folder}\n"
        f"stop it:     kill {child.pid} (it saves its state first)"
    )


def running(folder: Path) -> int | None:
    """Return the id of the process that trains in a folder, or None. 0: it has just started."""
    path = folder / LOCK
    if not path.exists():
        return None
    with path.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return int(json.loads(file.read() or "{}").get("process", 0))
    return None


def failure(folder: Path) -> str:
    """Return why the last process in a folder failed, or "" if it did not."""
    path = folder / FAILURE
    return path.read_text().strip() if path.exists() else ""


@contextlib.contextmanager
def only_process(folder: Path) -> Iterator[None]:
    """Hold the folder's lock. The system releases it when the process ends, however it ends.

    Raises:
        CastmixError: Another process holds it.
    """
    with (folder / LOCK).open("a+") as file:
        for patience in range(20, -1, -1):
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:  # `running` holds the lock for a moment
                if not patience:
                    raise CastmixError(f"another process trains in {folder}") from None
                time.sleep(0.05)
        file.truncate(0)
        file.write(json.dumps({"process": os.getpid(), "started": round(time.time())}))
        file.flush()
        yield


def main() -> None:
    """Train: the arguments are the folder, and the options as a JSON object."""
    from toolkit.sandbox.base_model.endless import train

    folder, options = Path(sys.argv[1]), json.loads(sys.argv[2])
    os.nice(19)
    with only_process(folder):
        (folder / FAILURE).unlink(missing_ok=True)
        try:
            train(folder, **options)
        except Exception as error:
            write_atomic(folder / FAILURE, " ".join(f"{type(error).__name__}: {error}".split()) + "\n")
            raise


if __name__ == "__main__":
    main()
