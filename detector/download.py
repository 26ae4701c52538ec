"""One file over HTTP: resumed where it broke off, shown while it runs, checked when it is there.

Only the standard library: proxies come from `HTTP(S)_PROXY`, certificates from the variables in `CERTIFICATES`.
"""

from __future__ import annotations

import hashlib
import os
import ssl
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from tqdm import tqdm

from groundwire.errors import FetchError

CERTIFICATES = ("PIP_CERT", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE")  # the first one set is used
CHUNK = 1 << 18
TIMEOUT = 60.0  # seconds without a byte
RANGE_NOT_SATISFIABLE = 416


def sha256_of(path: Path) -> str:
    """Hexadecimal SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def download(url: str, target: Path, *, sha256: str | None = None) -> None:
    """Bring `url` (http, https, file) to `target`, by way of `target` + ".partial", which a later call continues.

    sha256: hexadecimal digest the whole file must have; None where the index gives none.
    Raises FetchError where the connection brings nothing more (the partial file stays) or the checksum is wrong
    (it is removed).
    """
    partial = target.with_name(target.name + ".partial")
    resumed = _size(partial) > 0
    _transfer_all(url, partial)
    found = sha256_of(partial)
    if sha256 and found != sha256:
        partial.unlink()
        if resumed:  # what lay there may have been the beginning of something else
            return download(url, target, sha256=sha256)
        raise FetchError(
            f"{target.name} arrived with SHA-256 {found}",
            expected=sha256,
            remedy="try again; if it stays so, a proxy or mirror on the way serves another file",
        )
    partial.replace(target)


def _transfer_all(url: str, partial: Path) -> None:
    """Continue for as long as every attempt brings the file further than any before."""
    reached = _size(partial)
    while True:
        try:
            if _transfer(url, partial):
                return
            problem = "the connection was cut"
        except HTTPError as error:
            error.close()
            if error.code == RANGE_NOT_SATISFIABLE:  # nothing follows what is there: the checksum decides
                return
            problem = str(error)
        except (OSError, HTTPException) as error:
            problem = str(error) or type(error).__name__
        if _size(partial) <= reached:
            raise FetchError(
                f"the download of {partial.stem} stopped after {_size(partial):,} bytes: {problem}",
                expected=f"an answer from {url}",
                remedy="check the network, proxy and certificate settings and run again: it goes on where it stopped",
            )
        reached = _size(partial)


def _transfer(url: str, partial: Path) -> bool:
    """One request, appended to `partial` where the server grants the range. True where all of the file is there."""
    have = _size(partial)
    headers = {"User-Agent": "groundwire", "Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
    with urlopen(Request(url, headers=headers), timeout=TIMEOUT, context=_certificates()) as answer:
        if answer.status != 206:
            have = 0
        length = answer.headers["Content-Length"]
        total = have + int(length) if length else None
        with partial.open("ab" if have else "wb") as file, _progress(partial.stem, have, total) as bar:
            while chunk := answer.read(CHUNK):
                file.write(chunk)
                bar.update(len(chunk))
    return total is None or _size(partial) >= total


def _progress(name: str, have: int, total: int | None) -> Any:
    """A progress bar on stderr, silent where stderr is not a terminal."""
    return tqdm(desc=name, initial=have, total=total, unit="B", unit_scale=True, leave=False, disable=None)


def _certificates() -> ssl.SSLContext:
    chosen = next((os.environ[name] for name in CERTIFICATES if os.environ.get(name)), None)
    if chosen and Path(chosen).is_dir():
        return ssl.create_default_context(capath=chosen)
    return ssl.create_default_context(cafile=chosen)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
