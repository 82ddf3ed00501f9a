"""An API server and a dashboard that hold state: `kubectl` as a program on the PATH, Ray's log over a real socket."""

import asyncio
import json
import sys
import threading
from pathlib import Path
from typing import Any

from aiohttp import web

KUBECTL = """#!{python}
import json, os, sys, time
from pathlib import Path

folder = Path({folder!r})
arguments = sys.argv[1:]
with (folder / "calls").open("a") as calls:
    calls.write(" ".join(arguments) + "\\n")
if (folder / "outage").exists():
    sys.exit("Unable to connect to the server: dial tcp 10.0.0.1:443: connect: connection refused")
state = json.loads((folder / "state.json").read_text())
options = dict(argument[2:].partition("=")[::2] for argument in arguments if argument.startswith("--"))
verb, *rest = [argument for argument in arguments if not argument.startswith("--")]
KINDS = {{"rayjobs.ray.io": "RayJob", "configmap": "ConfigMap", "configmaps": "ConfigMap", "pods": "Pod",
         "secret": "Secret", "networkpolicies.networking.k8s.io": "NetworkPolicy"}}

def chosen(thing):
    labels = thing["metadata"].get("labels", {{}})
    return all(labels.get(key) == value for key, value in (part.split("=") for part in options["selector"].split(",")))

def things(kinds):
    return [thing for key, thing in state.items() if key.split("|")[0] in [KINDS[kind] for kind in kinds.split(",")]]

if "raw" in options:
    print(json.dumps({{"gitVersion": "v1.30.0"}}))
elif verb == "get" and "selector" in options:
    print(json.dumps({{"items": [thing for thing in things(rest[0]) if chosen(thing)]}}))
elif verb == "get":
    found = [thing for thing in things(rest[0]) if thing["metadata"]["name"] == rest[1]]
    print(json.dumps(found[0]) if found else "", end="")
elif verb == "apply":
    import yaml
    for thing in yaml.safe_load_all(sys.stdin):
        key = thing["kind"] + "|" + thing["metadata"]["name"]
        if state.get(key, thing) != thing and thing.get("immutable"):
            sys.exit("The ConfigMap is invalid: data: Forbidden: field is immutable when `immutable` is set")
        state.setdefault(key, thing)
elif verb == "create":
    import yaml
    assert options["dry-run"] == "server"
    thing = yaml.safe_load(sys.stdin)
    refusals = folder / "refusals.json"
    if words := (json.loads(refusals.read_text()) if refusals.exists() else {{}}).get(thing["kind"]):
        sys.exit(words)
    if thing["kind"] + "|" + thing["metadata"]["name"] in state:
        sys.exit('Error from server (AlreadyExists): error when creating "STDIN": it already exists')
elif verb == "delete":
    gone = [thing for thing in things(rest[0]) if chosen(thing)]
    state = {{key: thing for key, thing in state.items() if thing not in gone}}
elif verb == "port-forward":
    print("Forwarding from 127.0.0.1:" + (folder / "port").read_text() + " -> 8265", flush=True)
    time.sleep(600)
if verb in ("apply", "delete"):
    scratch = folder / f"state.{{os.getpid()}}"
    scratch.write_text(json.dumps(state))
    scratch.replace(folder / "state.json")
"""


class FakeCluster:
    """What `kubectl` on the PATH speaks to; a test plays the operator."""

    def __init__(self, folder: Path):
        self.folder = folder
        (folder / "state.json").write_text("{}")
        program = folder / "kubectl"
        program.write_text(KUBECTL.format(python=sys.executable, folder=str(folder)))
        program.chmod(0o755)

    @property
    def state(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.folder / "state.json").read_text())
        return found

    @property
    def calls(self) -> list[str]:
        return (self.folder / "calls").read_text().splitlines()

    def put(self, kind: str, name: str, **fields: Any) -> None:
        """Adds an object, or fields to the one that is there."""
        state = self.state
        thing = state.setdefault(f"{kind}|{name}", {"kind": kind, "metadata": {"name": name}})
        state[f"{kind}|{name}"] = thing | fields
        scratch = self.folder / "state.new"
        scratch.write_text(json.dumps(state))
        scratch.replace(self.folder / "state.json")

    def refuse(self, kind: str, words: str) -> None:
        """From now on no object of this kind is taken."""
        (self.folder / "refusals.json").write_text(json.dumps({kind: words}))

    def lose_api(self, *, lost: bool) -> None:
        if lost:
            (self.folder / "outage").touch()
        else:
            (self.folder / "outage").unlink()


class FakeDashboard:
    """Ray's dashboard as far as a follower sees it: a version, and a log whose stream breaks when told to."""

    def __init__(self, folder: Path, token: str):
        self.lines: list[str] = []
        self.breaks_after = 0  # lines, after which the first stream ends; 0 ends none
        self.num_streams = 0
        self.has_ended = False
        self._token = token
        self._ready = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._serve, args=(folder,), daemon=True)
        self._thread.start()
        assert self._ready.wait(30)

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def _serve(self, folder: Path) -> None:
        asyncio.set_event_loop(self._loop)
        app = web.Application()
        app.router.add_get("/api/version", self._version)
        app.router.add_get("/api/jobs/{job}/logs/tail", self._log)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        self._loop.run_until_complete(runner.setup())
        site = web.TCPSite(runner, "127.0.0.1", 0)
        self._loop.run_until_complete(site.start())
        (folder / "port").write_text(str(runner.addresses[0][1]))
        self._ready.set()
        self._loop.run_forever()
        self._loop.run_until_complete(runner.cleanup())

    def _check(self, request: web.Request) -> None:
        if request.headers.get("Authorization") != f"Bearer {self._token}":
            raise web.HTTPUnauthorized()

    async def _version(self, request: web.Request) -> web.Response:
        self._check(request)
        return web.json_response({"version": "4", "ray_version": "2.60.0", "ray_commit": "x"})

    async def _log(self, request: web.Request) -> web.WebSocketResponse:
        self._check(request)
        stream = web.WebSocketResponse()
        await stream.prepare(request)
        self.num_streams += 1
        breaks_after = self.breaks_after if self.num_streams == 1 else 0
        num_sent = 0
        while not (self.has_ended and num_sent == len(self.lines)):
            if num_sent < len(self.lines):
                await stream.send_str(self.lines[num_sent] + "\n")
                num_sent += 1
            if breaks_after and num_sent == breaks_after:
                break
            await asyncio.sleep(0.01)
        await stream.close()
        return stream
