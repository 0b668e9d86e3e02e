# ruff: noqa: INP001, T201 - a command of its own, it prints
"""Writes account, region, bucket, group and names into everything that needs them: `python3 scripts/fill_in_site.py`.

`examples/site.json` is the one place for what differs from site to site. This puts author, bucket and region into the
`gdk-config.json` of each component, and writes the documents of `examples/` with the site's values, and with the names and versions
of the components as they are built here, to `site/`. It must never change a document that was not made by it.
"""

from __future__ import annotations

import json
import os.path
import re
import sys
from pathlib import Path
from typing import Any

PROJECTS = {
    "com.example.MLInference": ".",
    "com.example.MLInference.Model": "components/model",
    "com.example.MLInference.Bridge": "components/bridge",
    "com.example.MLInference.Dashboard": "components/dashboard",
    "com.example.SensorSimulator": "components/simulator",
}
"""Where each component of the examples is built; its own `gdk-config.json` may call it otherwise."""

FOLDERS = ("deployments", "grafana", "policies")
"""Where documents lie that differ from site to site."""

PATTERNS = {
    "account": r"\d{12}",
    "region": r"[a-z]{2}(-[a-z]+)+-\d",
    "author": r"[^\x00-\x1f]{1,256}",
    "bucket": r"[a-z0-9][a-z0-9.-]{1,40}",
    "group": r"[a-zA-Z0-9:_-]{1,100}",
    "thing": r"[a-zA-Z0-9:_-]{1,128}",
}


class SiteError(Exception):
    """The documents cannot be written; the text says what to change."""


def read_site(path: Path) -> dict[str, str]:
    """Read `site.json`.

    Raises:
        SiteError: A value is missing or is not what AWS takes.
    """
    try:
        site = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SiteError(f"cannot read {path}: {error}") from error
    for key, pattern in PATTERNS.items():
        if not isinstance(site.get(key), str) or not re.fullmatch(pattern, site[key]):
            raise SiteError(f"{path}: {key} is {site.get(key)!r}, which does not match {pattern}")
    return dict(site)


def configure(path: Path, site: dict[str, str]) -> tuple[str, str]:
    """Put the site's values into a `gdk-config.json`; the component's name and version.

    Raises:
        SiteError: The cloud is to choose the version.
    """
    config = json.loads(path.read_text(encoding="utf-8"))
    ((name, component),) = config["component"].items()
    wanted = {"bucket": site["bucket"], "region": site["region"]}
    if (component["author"], component["publish"]) != (site["author"], wanted):
        component |= {"author": site["author"], "publish": wanted}
        path.write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    if component["version"] == "NEXT_PATCH":
        raise SiteError(f"{path}: a deployment needs a written-out version, not NEXT_PATCH")
    return name, component["version"]


def fill_in(document: Any, example: dict[str, str], site: dict[str, str], names: dict[str, str]) -> Any:
    """A document of the examples with the site's values.

    Args:
        document: As it was parsed.
        example: The values that the examples use.
        site: The site's.
        names: Component names by those of the examples.
    """
    text = json.dumps(document)
    # The longest first, since one name begins another.
    ordered = sorted(names, key=len, reverse=True)
    text = re.sub("|".join(map(re.escape, ordered)), lambda found: names[found[0]], text)
    shared = os.path.commonpath([f"{name.replace('.', '/')}/" for name in names.values()]).replace("/", ".")
    text = text.replace("com.example.*", f"{shared}.*" if shared else "*")
    text = text.replace(f"thinggroup/{example['group']}", f"thinggroup/{site['group']}")
    for key in ("account", "region", "bucket", "thing"):
        text = text.replace(example[key], site[key])
    return json.loads(text)


def main() -> int:
    """Fill in everything in this checkout."""
    root = Path(__file__).resolve().parents[1]
    example = {
        "account": "123456789012",
        "region": "eu-central-1",
        "bucket": "greengrass-components",
        "group": "gateways",
        "thing": "my-gateway",
    }
    try:
        site = read_site(root / "examples" / "site.json")
        built = {name: configure(root / project / "gdk-config.json", site) for name, project in PROJECTS.items()}
        names = {name: renamed for name, (renamed, _) in built.items()}
        versions = dict(built.values())
        for path in sorted(path for folder in FOLDERS for path in (root / "examples" / folder).glob("*.json")):
            document = fill_in(json.loads(path.read_text(encoding="utf-8")), example, site, names)
            for name, component in document.get("components", {}).items():
                component["componentVersion"] = versions.get(name, component["componentVersion"])
            target = root / "site" / path.relative_to(root / "examples")
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
            print(target.relative_to(root))
    except SiteError as error:
        print(f"fill_in_site: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
