"""What keeps other users of this machine and of the network out of the Ray that a run starts; see docs/security.md."""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ray._private import ray_constants
from ray._private.authentication.authentication_token_generator import generate_new_authentication_token
from ray._private.authentication.authentication_utils import is_token_auth_enabled

from sdft_ray.errors import ClusterError

LOOPBACK = "127.0.0.1"
SOCKET_PATH_BYTES = 107  # of an AF_UNIX socket on Linux
SESSION_BYTES = 70  # of /r/session_DATE_TIME_MICROSECONDS_PID/sockets/plasma_store
TOKEN_FILE = (".ray", "auth_token")  # in the home folder, where Ray looks for it
TOKEN_IS_ELSEWHERE = ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")
NO_TOKEN = (
    "warning        this Ray cluster wants no token: whoever reaches its ports runs code as you; start its nodes with "
    "RAY_AUTH_MODE=token, and set it here"
)


def own_temp_dir() -> Path:
    """The folder of this user's Ray sessions, which nobody else can look into; Ray's own are open to all.

    Raises:
        ClusterError: it is another user's, or its path is too long for Ray's sockets.
    """
    folder = Path(os.environ.get("RAY_TMPDIR", "/tmp")) / f"sdft-ray-{os.getuid()}"
    if len(os.fsencode(folder)) + SESSION_BYTES > SOCKET_PATH_BYTES:
        raise ClusterError(
            f"RAY_TMPDIR={folder.parent}: is too long for the paths of Ray's sockets, of at most {SOCKET_PATH_BYTES} "
            f"bytes; set it to a path of {SOCKET_PATH_BYTES - SESSION_BYTES - len(folder.name) - 1} bytes at most."
        )
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = folder.lstat()
        is_own = stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid()
    except OSError as error:
        raise ClusterError(f"{folder}: cannot be made ({error.strerror}); set RAY_TMPDIR to a local folder.") from error
    if not is_own:  # who made it could read and replace what Ray writes there
        raise ClusterError(f"{folder}: is no folder of yours; remove it, or set RAY_TMPDIR to another local folder.")
    folder.chmod(0o700)
    return folder / "r"  # which Ray opens to all, and nobody else can reach


def keep_token_private() -> None:
    """Has the token of this user's Rays readable by the user alone, also one that Ray has made readable by all."""
    if any(os.environ.get(name) for name in TOKEN_IS_ELSEWHERE):
        return
    file = Path.home().joinpath(*TOKEN_FILE)
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        if file.stat().st_uid == os.getuid():
            file.chmod(0o600)
        return
    with os.fdopen(descriptor, "w") as opened:
        opened.write(generate_new_authentication_token())


@contextmanager
def on_loopback() -> Iterator[str]:
    """The address of a node that Ray starts here, whose processes then listen on the loopback interface alone.

    Ray takes any name of the loopback for the address that other machines see, unless it is told, as on platforms
    where it knows no clusters, that there are none.
    """
    before = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield LOOPBACK
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


def exposure_of_cluster() -> str:
    """What to say of a cluster that was joined; "" where it is known to want a token."""
    return "" if is_token_auth_enabled() else NO_TOKEN
