"""The command `greengrass-sandbox`: a nucleus stand-in in the terminal, or as a process that another program drives.

Everything that happens is a line on standard output, as text or (`--json`) as one JSON object; standard input takes verbs. Both are a public interface:
the package's README describes them, and a change there is a change for users. The command never ends without having ended its components.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import contextlib
import inspect
import json
import logging
import os
import shlex
import signal
import sys
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from greengrass_sandbox.nucleus import DeploymentError, LogLine, Nucleus, StateChange
from greengrass_sandbox.recipe import RecipeError, load_recipe, locate
from greengrass_sandbox.topics import Message, Tap

_FAULTS: Final = (
    "drop-connections",
    "refuse-tokens",
    "rotate-token",
    "stop-reading",
    "resume-reading",
    "answer-never",
    "answer-late",
    "event-before-response",
    "forget-streams",
    "cloud-offline",
    "cloud-online",
    "spool-full",
    "qos1-window",
    "withhold-acknowledgements",
    "slow-consumer",
    "clear",
)


class _VerbError(Exception):
    """A line of standard input that cannot be carried out."""


def main(arguments: list[str] | None = None) -> int:
    """Runs the command.

    Returns:
        Its exit code: 0 after a clean stop, 1 if a deployment at the start failed.
    """
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=options.log_level, format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    with contextlib.ExitStack() as cleanup:
        root = options.root or Path(cleanup.enter_context(tempfile.TemporaryDirectory(prefix="greengrass-sandbox-")))
        return asyncio.run(_Session(options, root).run())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="greengrass-sandbox", description="A stand-in for the Greengrass nucleus.")
    parser.add_argument(
        "--profile", choices=("lite", "classic"), default="lite", help="which runtime to be (default: lite)"
    )
    parser.add_argument("--root", type=Path, help="root folder that survives (default: a temporary one)")
    parser.add_argument("--thing-name", default="sandbox-core")
    parser.add_argument("--region", default="eu-central-1")
    parser.add_argument(
        "--deploy",
        type=Path,
        action="append",
        default=[],
        metavar="BUILD",
        help="a greengrass-build folder, or a recipe",
    )
    parser.add_argument("--artifacts", type=Path, help="folder of artifacts for recipes given to --deploy")
    parser.add_argument("--local", action="store_true", help="deploy as a local deployment")
    parser.add_argument(
        "--merge", action="append", default=[], metavar="NAME={JSON}", help="configuration to merge at deployment"
    )
    parser.add_argument("--watch", action="append", default=[], metavar="FILTER", help="print local messages")
    parser.add_argument(
        "--watch-cloud", action="append", default=[], metavar="FILTER", help="print messages that reach the cloud"
    )
    parser.add_argument("--python", help="what python3 is in recipes (default: what PATH says)")
    parser.add_argument("--secrets", type=Path, metavar="FILE", help="JSON file of secrets by id")
    parser.add_argument("--no-logs", dest="logs", action="store_false", help="do not print what components write")
    parser.add_argument("--json", action="store_true", help="print one JSON object a line")
    parser.add_argument(
        "--log-level", default="WARNING", help="of the sandbox itself, to standard error (default: WARNING)"
    )
    return parser


class _Session:
    def __init__(self, options: argparse.Namespace, root: Path) -> None:
        self._options = options
        self._merges = _read_merges(options.merge)
        self._nucleus = Nucleus(
            root,
            options.profile,
            thing_name=options.thing_name,
            region=options.region,
            python=options.python,
            secrets=options.secrets,
        )
        self._stop = asyncio.Event()
        self._say = _printer()

    async def run(self) -> int:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._stop.set)
        async with self._nucleus as nucleus:
            tasks = [
                loop.create_task(self._print_messages("local", nucleus.watch(each))) for each in self._options.watch
            ]
            tasks += [
                loop.create_task(self._print_messages("cloud", nucleus.iot_core.watch(each)))
                for each in self._options.watch_cloud
            ]
            tasks.append(loop.create_task(self._print_events(nucleus.events())))
            code = await self._until_stopped(loop)
        await asyncio.gather(*tasks)
        return code

    async def _until_stopped(self, loop: asyncio.AbstractEventLoop) -> int:
        stopped = loop.create_task(self._stop.wait())
        deployed = loop.create_task(self._deploy())
        await asyncio.wait({stopped, deployed}, return_when=asyncio.FIRST_COMPLETED)
        if not deployed.done():
            deployed.cancel()
            await asyncio.wait({deployed})
            return 0
        if not deployed.result():
            stopped.cancel()
            return 1
        self._print(
            "ready", profile=self._options.profile, root=str(self._nucleus.root), socket=str(self._nucleus.socket_path)
        )
        verbs = loop.create_task(self._obey(_lines_of_standard_input(loop)))
        await stopped
        verbs.cancel()
        await asyncio.wait({verbs})
        return 0

    async def _deploy(self) -> bool:
        # Side by side: most of an installation is waiting for packages.
        return all(await asyncio.gather(*map(self._deploys, self._options.deploy)))

    async def _deploys(self, source: Path) -> bool:
        try:
            await self._deploy_one(source)
        except DeploymentError as error:
            self._print("error", message=f"{source}: {error}")
            return False
        return True

    async def _deploy_one(self, source: Path) -> None:
        try:
            path, folder = locate(source)
            name = load_recipe(path, self._nucleus.profile, local=self._options.local).name
        except RecipeError as error:
            raise DeploymentError(str(error)) from error
        change = {"merge": self._merges.get(name, {})}
        await self._nucleus.deploy(
            path, folder or self._options.artifacts, configuration=change, local=self._options.local
        )

    async def _obey(self, lines: AsyncIterator[str]) -> None:
        async for line in lines:
            try:
                await self._carry_out(line)
            except (_VerbError, DeploymentError, KeyError, ValueError, RuntimeError) as error:
                self._print("error", message=f"{line}: {error}")

    async def _carry_out(self, line: str) -> None:
        verb, _, rest = line.strip().partition(" ")
        name, _, text = rest.strip().partition(" ")
        nucleus = self._nucleus
        if verb == "quit":
            self._stop.set()
        elif verb in ("stop", "start", "restart"):
            component = nucleus.component(self._deployed(name))
            await (
                component.stop() if verb == "stop" else component.start() if verb == "start" else component.restart()
            )
        elif verb == "cloud" and name in ("offline", "online"):
            nucleus.iot_core.online = name == "online"
        elif verb == "publish":
            await nucleus.publish(name, _json(text, 'publish TOPIC JSON, such as publish a/b {"x": 1}'))
        elif verb == "publish-cloud":
            await nucleus.iot_core.publish(name, text.encode())
        elif verb == "configure":
            change = _json(text, 'configure NAME JSON, such as configure com.example.A {"x": 1}')
            await nucleus.update_configuration(self._deployed(name), change)
        elif verb == "fault":
            self._fault(name, text)
        elif verb == "deploy":
            await self._deploy_one(Path(rest.strip()))
        elif verb:
            await self._as_greengrass_cli(verb, shlex.split(rest))

    async def _as_greengrass_cli(self, verb: str, words: list[str]) -> None:
        """Obeys a verb of two words, most of them named as in `greengrass-cli`."""
        action, *arguments = words or [""]
        if verb == "logs" and action:
            self._show_log(action, *arguments[:1])
        elif verb == "nucleus" and action in ("restart", "kill", "start"):
            await {"restart": self._nucleus.restart, "kill": self._nucleus.kill, "start": self._nucleus.start}[action]()
        elif verb == "component":
            await self._component(action, *arguments[:1])
        elif verb == "deployment":
            self._deployment(action, arguments)
        else:
            raise _VerbError("no such verb")

    async def _component(self, action: str, name: str = "") -> None:
        if action == "list":
            for details in self._nucleus.component_details():
                self._show_component(details)
        elif action == "details":
            self._show_component(*self._nucleus.component_details(self._deployed(name)), full=True)
        elif action in ("restart", "stop", "pause", "resume"):
            await self._nucleus.manage(self._deployed(name), action)
        else:
            raise _VerbError("expected component list, or component details, restart, stop, pause or resume NAME")

    def _deployment(self, action: str, arguments: list[str]) -> None:
        if action == "create":
            identity = self._nucleus.create_local_deployment(_local_deployment(arguments))
            self._print("deployment", id=identity, state="QUEUED")
        elif action == "list" or (action == "status" and arguments):
            for status in self._nucleus.deployment_status(arguments[0] if action == "status" else None):
                self._show_deployment(status)
        else:
            raise _VerbError("expected deployment create OPTIONS, deployment list, or deployment status ID")

    def _show_log(self, name: str, lines: str = "50") -> None:
        for line in self._nucleus.component(self._deployed(name)).log_tail(int(lines)).splitlines():
            self._print("log", component=name, line=line, level="INFO")

    def _show_component(self, details: Mapping[str, Any], *, full: bool = False) -> None:
        more = {"configuration": details["configuration"]} if full else {}
        self._print(
            "component", component=details["componentName"], version=details["version"], state=details["state"], **more
        )

    def _show_deployment(self, status: Mapping[str, Any]) -> None:
        cause = status.get("deploymentStatusDetails", {}).get("deploymentFailureCause")
        self._print(
            "deployment", id=status["deploymentId"], state=status["status"], **({"message": cause} if cause else {})
        )

    def _deployed(self, name: str) -> str:
        names = sorted(component.name for component in self._nucleus.components)
        if name not in names:
            raise _VerbError(f"no such component, there are {', '.join(names) or 'none'}")
        return name

    def _fault(self, name: str, arguments: str) -> None:
        """Calls a fault verb: its name with dashes, its arguments as KEY=VALUE, values in JSON where they are JSON."""
        if name not in _FAULTS:
            raise _VerbError(f"no such fault, there are {', '.join(_FAULTS)}")
        method = getattr(self._nucleus.faults, name.replace("-", "_"))
        pairs = [pair.partition("=") for pair in shlex.split(arguments)]
        given = {key: _value(text) for key, _, text in pairs}
        unknown = set(given) - set(inspect.signature(method).parameters)
        if unknown:
            raise _VerbError(f"{name} takes no {', '.join(sorted(unknown))}")
        for key, kinds in (
            ("seconds", (int, float)),
            ("within", (int, float)),
            ("times", int),
            ("after", int),
            ("size", int),
        ):
            needed = (name, key) in (("answer-late", "seconds"), ("qos1-window", "size"))
            if (needed or key in given) and not isinstance(given.get(key), kinds):
                raise _VerbError(f"{name} needs {key}=NUMBER")
        method(**given)

    async def _print_messages(self, event: str, tap: Tap[Message]) -> None:
        async for message in tap:
            self._print(
                event,
                time=message.time,
                order=message.order,
                topic=message.topic,
                component=message.component,
                kind=message.kind,
                qos=message.qos,
                **_payload(message),
            )

    async def _print_events(self, tap: Tap[StateChange | LogLine]) -> None:
        async for event in tap:
            if isinstance(event, StateChange):
                self._print("state", time=event.time, component=event.component, state=event.state)
            elif self._options.logs:
                self._print("log", time=event.time, component=event.component, line=event.line, level=event.level)

    def _print(self, event: str, **fields: Any) -> None:
        fields = {"event": event, "time": time.time()} | fields
        try:
            if self._options.json:
                print(json.dumps(fields, ensure_ascii=False), flush=True)
            else:
                self._say(_as_text(fields), _STYLES.get(str(fields.get("state", event)), ""))
        except BrokenPipeError:
            # Nobody reads any more: stop, and let no later flush fail.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            self._stop.set()


_STYLES: Final = {
    "error": "red",
    "BROKEN": "red",
    "ERRORED": "red",
    "RUNNING": "green",
    "FINISHED": "green",
    "ready": "bold",
    "local": "cyan",
    "cloud": "magenta",
    "log": "dim",
}


def _printer() -> Callable[[str, str], None]:
    """Returns what prints a line in a style: with colours on a terminal, where the extra `cli` is installed."""
    try:
        from rich.console import Console  # noqa: PLC0415
        from rich.text import Text  # noqa: PLC0415
    except ModuleNotFoundError:
        return lambda line, _: print(line, flush=True)
    console = Console(highlight=False, soft_wrap=True)
    if not console.is_terminal:
        return lambda line, _: print(line, flush=True)
    return lambda line, style: console.print(Text(line, style=style))


def _local_deployment(words: Sequence[str]) -> dict[str, Any]:
    """Reads the options of `deployment create` and returns them as the body of CreateLocalDeployment."""
    parser = argparse.ArgumentParser(prog="deployment create", add_help=False, exit_on_error=False)
    parser.add_argument("-r", "--recipeDir")
    parser.add_argument("-a", "--artifactDir")
    parser.add_argument("-m", "--merge", action="append", default=[])
    parser.add_argument("--remove", action="append", default=[])
    parser.add_argument("-c", "--update-config")
    parser.add_argument("--failure-handling-policy", choices=("ROLLBACK", "DO_NOTHING"))
    try:
        options, unknown = parser.parse_known_args(words)
    except argparse.ArgumentError as error:
        raise _VerbError(str(error)) from error
    if unknown:
        raise _VerbError(f"deployment create takes no {' '.join(unknown)}")
    return {
        "recipeDirectoryPath": options.recipeDir,
        "artifactsDirectoryPath": options.artifactDir,
        "rootComponentVersionsToAdd": dict(text.partition("=")[::2] for text in options.merge),
        "rootComponentsToRemove": options.remove,
        "componentToConfiguration": json.loads(options.update_config) if options.update_config else None,
        "failureHandlingPolicy": options.failure_handling_policy,
    }


def _json(text: str, usage: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise _VerbError(f"expected {usage} ({error})") from error


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _payload(message: Message) -> dict[str, Any]:
    try:
        return {"payload": json.loads(message.payload)}
    except ValueError:
        return {"payload": base64.b64encode(message.payload).decode(), "encoding": "base64"}


def _as_text(fields: Mapping[str, Any]) -> str:
    clock = time.strftime("%H:%M:%S", time.localtime(fields["time"]))
    subject = fields.get("topic") or fields.get("component") or ""
    subject = subject or fields.get("id", "")
    said = fields.get("payload", fields.get("state", fields.get("line", fields.get("message", fields.get("socket")))))
    text = said if isinstance(said, str) else json.dumps(said, ensure_ascii=False)
    return " ".join(filter(None, (clock, fields["event"], subject, text)))


def _read_merges(texts: Iterable[str]) -> dict[str, Any]:
    merges = {}
    for text in texts:
        name, _, value = text.partition("=")
        try:
            merges[name] = json.loads(value)
        except ValueError as error:
            raise SystemExit(f"greengrass-sandbox: --merge {name}: {error}") from None
    return merges


async def _lines_of_standard_input(loop: asyncio.AbstractEventLoop) -> AsyncIterator[str]:
    """Yields lines; after the end of input it yields no more.

    A thread reads, since the loop cannot wait for a regular file. It reads the descriptor itself: the interpreter cannot end while a thread
    waits inside `sys.stdin`.
    """
    lines: asyncio.Queue[str | None] = asyncio.Queue()

    def read() -> None:
        rest = b""
        with contextlib.suppress(RuntimeError, OSError):  # the loop is closed; the input is
            while data := os.read(0, 65536):
                *whole, rest = (rest + data).split(b"\n")
                for line in whole:
                    loop.call_soon_threadsafe(lines.put_nowait, line.decode(errors="replace"))
            loop.call_soon_threadsafe(lines.put_nowait, rest.decode(errors="replace") or None)
            loop.call_soon_threadsafe(lines.put_nowait, None)

    threading.Thread(target=read, name="standard-input", daemon=True).start()
    while (line := await lines.get()) is not None:
        yield line


if __name__ == "__main__":
    sys.exit(main())
