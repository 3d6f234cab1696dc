"""`vkd doctor`: what this machine has for training, what is missing, and how to get it."""

import importlib.metadata
import os
import platform
import shutil
import subprocess
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gan_vkd
from gan_vkd.runtime.errors import VkdError, one_line
from gan_vkd.runtime.files import reason
from gan_vkd.runtime.terminal import result

PATIENCE = 2.0  # seconds to wait for a server
CHANNELS = 256  # of the convolution that the precision is measured on
LEAST_DISK = 2.0  # GiB: a narrow run with its checkpoints
SERVERS = {
    "Hugging Face hub (timm, CLIP)": "https://huggingface.co",
    "GitHub (CIFAR ResNets)": "https://github.com",
    "CIFAR-10 and CIFAR-100": "https://www.cs.toronto.edu",
    "Inception for FID": "https://nvlabs-fi-cdn.nvidia.com",
}
PACKAGES = ("torch", "torchvision", "timm", "clean-fid", "numpy", "pillow", "pydantic", "typer")
NAME = "gan-vkd"  # of this project's distribution


@dataclass
class Findings:
    """facts: for scripts. lines: for people. faults: what is needed, and missing or broken."""

    facts: dict[str, Any] = field(default_factory=dict)
    lines: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)

    def add(self, key: str, value: Any, *lines: str) -> None:
        self.facts[key] = value
        self.lines += [f"{key}:", *(f"  {line}" for line in lines)]


def examine(network: bool = False) -> None:
    """Says what is here.

    network: ask the servers of weights and data whether they can be reached, PATIENCE seconds.

    Raises:
        VkdError: something that is needed is missing or broken.
    """
    found = Findings()
    versions(found)
    if not found.faults:  # else torch may not be there
        devices(found)
    folders(found)
    weights(found)
    extras(found)
    if network:
        servers(found)
    else:
        found.add("servers", None, "not asked (--network)")
    found.facts["faults"] = found.faults
    result("\n".join(found.lines), **found.facts)
    if found.faults:
        raise VkdError("\n".join(found.faults))


def versions(found: Findings) -> None:
    """Versions of Python, this project and its packages; those that are missing or unfit."""
    installed = {name: _version(name) for name in PACKAGES}
    own = {NAME: gan_vkd.__version__, "commit": _commit(), "python": platform.python_version()}
    facts = {key: value for key, value in (own | installed).items() if value is not None}
    found.add("versions", facts, ", ".join(f"{name} {version}" for name, version in facts.items()))
    for requirement in _requirements(""):
        if fault := _unfit(requirement):
            found.faults.append(f"{fault}; pip install '{_plain(requirement)}'")


def devices(found: Findings) -> None:
    """GPUs and cores with their memory, and what train.precision=auto is there."""
    import torch

    from gan_vkd.runtime.devices import pick_device, usable_cores
    from gan_vkd.runtime.memory import free_memory, total_memory
    from gan_vkd.runtime.precision import resolve

    gib, cores = 2**30, usable_cores()
    try:
        chosen = f"device=auto is {pick_device('auto')}"
    except VkdError as error:
        chosen = str(error)
        found.faults.append(chosen)
    facts: list[dict[str, Any]] = [
        {
            "device": "cpu",
            "name": f"{cores} cores",
            "cores": cores,
            "memory": total_memory(),
            "free": free_memory(),
            "precision": resolve("auto", "cpu", CHANNELS),
        }
    ]
    for index in range(torch.cuda.device_count()):
        try:
            free, total = torch.cuda.mem_get_info(index)
        except RuntimeError as error:
            found.faults.append(f"cuda:{index}: {one_line(error)}")
            continue
        facts.append(
            {
                "device": f"cuda:{index}",
                "name": torch.cuda.get_device_name(index),
                "memory": total,
                "free": free,
                "precision": resolve("auto", f"cuda:{index}", CHANNELS),
            }
        )
    found.add(
        "devices",
        facts,
        *(
            f"{fact['device']}: {fact['name']}, "
            f"{fact['memory'] / gib:.1f} GiB ({fact['free'] / gib:.1f} free), "
            f"train.precision=auto is {fact['precision']}"
            f"{' (measured)' if fact['device'] == 'cpu' else ''}"
            for fact in facts
        ),
        chosen,
    )


def folders(found: Findings) -> None:
    """Whether results, caches and temporary files can be written, and the space for them."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    facts, lines = {}, []
    for name, folder, needed in (
        ("results", Path.cwd(), True),
        ("temporary", Path(tempfile.gettempdir()), True),
        ("downloads", cache, False),
    ):
        fault, free = _unwritable(folder), shutil.disk_usage(_existing(folder)).free / 2**30
        facts[name] = {"folder": str(folder), "writable": not fault, "free_gib": round(free, 1)}
        lines.append(f"{name}: {folder}, {fault or 'writable'}, {free:.1f} GiB free")
        if needed and fault:
            found.faults.append(f"{folder}: {fault}; {name} files are written there")
        elif needed and free < LEAST_DISK:
            found.faults.append(f"{folder}: {free:.1f} GiB free, and a run needs {LEAST_DISK:g}")
    found.add("folders", facts, *lines)


def weights(found: Findings) -> None:
    """Weights that need no download: of torch.hub, of the Hugging Face hub, of `vkd teach`."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    torch_hub = Path(os.environ.get("TORCH_HOME") or home / "torch", "hub", "checkpoints")
    hub = Path(os.environ.get("HF_HOME") or home / "huggingface", "hub")
    hub = Path(os.environ.get("HF_HUB_CACHE") or hub)
    taught = [*Path("runs").glob("*.safetensors")]
    taught += [file for name in ("teacher", "judge") for file in Path("runs").glob(f"*/{name}.*")]
    facts = {
        "torch.hub": sorted(file.name for file in torch_hub.glob("*.*")),
        "hugging face": sorted(
            folder.name.removeprefix("models--").replace("--", "/")
            for folder in hub.glob("models--*")
        ),
        "classifiers": sorted(map(str, taught)),
    }
    where = {"torch.hub": torch_hub, "hugging face": hub, "classifiers": "runs"}
    found.add(
        "weights",
        facts,
        *(f"{name} ({where[name]}): {', '.join(files) or 'none'}" for name, files in facts.items()),
    )


def extras(found: Findings) -> None:
    """Optional packages: present, or the line that installs them."""
    facts, lines = {}, []
    for name in _extras():
        missing = [_plain(r) for r in _requirements(name) if _unfit(r)]
        line = f"pip install {' '.join(map(repr, missing))}" if missing else ""
        facts[name] = {"missing": missing}
        lines.append(f"{name}: {line or 'installed'}")
    found.add("optional", facts, *(lines or ["not known: this project is not installed"]))


def servers(found: Findings) -> None:
    """Which servers of weights and data answer."""
    with ThreadPoolExecutor() as pool:
        answers = dict(zip(SERVERS, pool.map(_answer, SERVERS.values()), strict=True))
    lines = (f"{name}: {fault or 'reachable'}" for name, fault in answers.items())
    found.add("servers", {name: not fault for name, fault in answers.items()}, *lines)


def _answer(url: str) -> str:
    """ "" if the server answers, whatever it says; or why not."""
    request = urllib.request.Request(url, method="HEAD", headers={"User-Agent": NAME})
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE):
            return ""
    except urllib.error.HTTPError:
        return ""
    except (OSError, ValueError) as error:
        return f"not reachable ({reason(getattr(error, 'reason', error))})"


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _commit() -> str | None:
    """The commit of a checkout, with + if files were changed; None for an installed wheel."""
    folder = Path(gan_vkd.__file__).parents[1]
    if not (folder / ".git").exists():
        return None
    try:
        asked = ["git", "-C", str(folder), "describe", "--always", "--exclude=*", "--dirty=+"]
        said = subprocess.run(asked, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return said.stdout.strip()


def _requirements(extra: str) -> Iterator[str]:
    """Requirements of an extra, or of the project itself (""), as far as they concern this machine.

    None are known where the project is used without being installed.
    """
    from packaging.requirements import Requirement

    for line in _metadata("Requires-Dist"):
        marker = Requirement(line).marker
        always = marker is None or marker.evaluate({"extra": ""})
        if always != bool(extra) and (always or (marker and marker.evaluate({"extra": extra}))):
            yield line


def _extras() -> list[str]:
    return [name for name in _metadata("Provides-Extra") if name != "test"]


def _metadata(key: str) -> list[str]:
    try:
        return importlib.metadata.metadata(NAME).get_all(key) or []
    except importlib.metadata.PackageNotFoundError:
        return []


def _unfit(requirement: str) -> str:
    """Why a requirement is not met; "" if it is."""
    from packaging.requirements import Requirement

    wanted = Requirement(requirement)
    version = _version(wanted.name)
    if version is None:
        return f"{wanted.name}: not installed"
    if not wanted.specifier.contains(version, prereleases=True):
        return f"{wanted.name} {version}: expected {wanted.specifier}"
    return ""


def _plain(requirement: str) -> str:
    """The requirement without its marker, for pip."""
    return requirement.partition(";")[0].strip()


def _existing(folder: Path) -> Path:
    return next(place for place in (folder, *folder.parents) if place.exists())


def _unwritable(folder: Path) -> str:
    """Why nothing can be written to a folder, or be made where it will be; "" if it can."""
    try:
        with tempfile.TemporaryFile(dir=_existing(folder)):
            return ""
    except OSError as error:
        return f"cannot be written ({reason(error)})"
