"""What must never reach a server: whose data it is, on which machine, under which path.

The run's own persons are recognized without a list of them: a word that has the form of a research ID is hashed
under the run's key and looked up in its record.
"""

from __future__ import annotations

import getpass
import os
import re
import socket
import unicodedata
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from diffusion_adc.callbacks.policy import ID_FORM, Policy
from diffusion_adc.custody.lineage import has_lineage, keyed_hash, persons_used
from diffusion_adc.intake.clinical_cells import identifies, is_date
from diffusion_adc.intake.clinical_words import links_persons

RESEARCH_ID: Final = "research ID"
PERSON: Final = "person"
CONTACT: Final = "contact"
DATE: Final = "date"
PATH: Final = "path"
MACHINE: Final = "machine"
REPOSITORY: Final = "repository"
SECRET: Final = "key"

_PATH: Final = re.compile(
    r"(?:^|(?<=[\s\"'=(,;:\[]))(?:file://)?/(?!/)[\w.~+@-]+/[\w.~+@/ -]*\w|~[\w-]*/\w|(?<![A-Za-z])[A-Za-z]:\\+\w|\\\\\w+\\"
)
_REPOSITORY: Final = re.compile(r"\bgit@|ssh://|\.git\b|\b(?:github|gitlab|bitbucket)\.[a-z]+", re.IGNORECASE)
_MAIL: Final = re.compile(r"[\w.+-]+@[\w-]+(?:\.[\w-]+)+")
_ADDRESS: Final = re.compile(r"(?<![\d.])(?:\d{1,3}\.){3}\d{1,3}(?![\d.])")
_CARET: Final = re.compile(r"[^\W\d_]{2,}\^[^\W\d_]+")
_DATE: Final = re.compile(
    r"(?<![\d.])(?:19|20)\d\d[-/](?:0?[1-9]|1[0-2])[-/](?:0?[1-9]|[12]\d|3[01])(?!\d)"
    r"|(?<![\d.])(?:19|20)\d\d(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])(?![\d.])"
    r"|(?:明治|大正|昭和|平成|令和)\s*(?:元|\d{1,2})"
)
_ASIAN: Final = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\uff66-\uff9f]")
_SECRET: Final = re.compile(r"(?<![0-9a-zA-Z])(?:local-)?[0-9a-f]{40}(?![0-9a-zA-Z])|wandb_v\d_\w{20,}")
_MACHINE_WORD: Final = re.compile(
    r"(?=[0-9-]*[a-f])[0-9a-f]{8,128}(?:-[0-9a-f]{4,12})*(?:-modified)?|(?=[A-Za-z+/]*\d)[A-Za-z0-9+/]{20,}={0,2}"
    r"|v?\d+(?:\.\w+)+(?:\+\w+)?|sha256:\w+|(?:[\w./-]*/)?tmp[a-z0-9_]{8}",
    re.ASCII,
)
"""Hashes (a commit's with `RunRecord`'s mark), random names, versions: nothing a person is called, though digits in them may look like a date."""
_MEDIA: Final = re.compile(
    r"[A-Za-z_./ -]+(?:(?:_\d+_)?[0-9a-f]{20})?(?:\.mask|\.table)?\.(?:png|json|html|ckpt|yaml|csv|txt)",
    re.ASCII,
)
"""The client's own file names: words, then its step and twenty letters of a hash; other digits are looked at."""
_ENDING: Final = re.compile(r"(?:\.[A-Za-z]\w{0,9})+$", re.ASCII)
_OWN: Final = 6
"""Letters from which on one of the tracker's own names is taken out of a text before it is judged."""
_GENERIC_USERS: Final = frozenset({"root", "user", "admin", "ubuntu", "runner", "jovyan", "nobody", "docker"})
_STANDARDS: Final = re.compile(r"(?:ISO|SHA|CP|UTF|MD|RFC|IEEE|PS|CVE|GPU|CUDA)-?\d+", re.IGNORECASE)


class Identifiers:
    """Recognizes what may not be sent of one run.

    Args:
        record: RUN/record.json.
        policy: What may be sent.
        own: Words known to be harmless: the tracker's run ID, project and entity.
    """

    def __init__(self, record: Mapping[str, Any], policy: Policy, own: frozenset[str] = frozenset()) -> None:
        self.policy, self.own = policy, own
        sources = [record, *(p for p in record.get("parents", ()) if isinstance(p, Mapping))]
        self.record = {"parents": [dict(source) for source in sources if has_lineage(source)]}
        self.cases = [(str(s["case_key"]), frozenset(map(str, s["cases"]))) for s in self.record["parents"]]
        self.hashes = frozenset().union(*(cases for _, cases in self.cases)) | {key for key, _ in self.cases}
        self.machine = _machine_words()
        self._persons: dict[str, bool] = {}

    def kinds(self, text: str) -> Iterator[str]:
        """The kinds of identifiers in a text; nothing of the text itself."""
        text = unicodedata.normalize("NFKC", text.replace("\0", ""))
        if text in self.own or not text.strip():
            return
        for word in self.own:  # an agent's run ID may look like anything
            text = text.replace(word, "own") if len(word) >= _OWN else text
        yield from self._exact(text)
        if _ADDRESS.search(text):
            yield CONTACT
        if _MACHINE_WORD.fullmatch(text) or _MEDIA.fullmatch(text):
            return
        if _CARET.search(text) or _ASIAN.search(text) or (len(text) <= 40 and links_persons(text)):
            yield PERSON
        # A file's ending would hide the number before it: 4711823.png.
        words = " ".join(_ENDING.sub("", w) for w in text.split() if not _MACHINE_WORD.fullmatch(w))
        if _MAIL.search(text) or (len(words) <= 80 and identifies(words)):
            yield CONTACT
        if _DATE.search(words) or is_date(words):
            yield DATE

    def _exact(self, text: str) -> Iterator[str]:
        if not self.policy.free and any(map(self._is_person, ID_FORM.findall(text))):
            yield RESEARCH_ID
        if any(known in text for known in self.hashes if len(text) >= len(known)):
            yield RESEARCH_ID
        if _PATH.search(text):
            yield PATH
        if any(word.search(text) for word in self.machine):
            yield MACHINE
        if _REPOSITORY.search(text):
            yield REPOSITORY
        key = os.environ.get("WANDB_API_KEY")
        if (key and key in text) or (_SECRET.search(text) and "wandb" in text.lower()):
            yield SECRET

    def in_bytes(self, data: bytes) -> Iterator[str]:
        """Kinds of identifiers in a file of unknown form (weights): own persons, this machine, its paths."""
        text = data.decode("latin-1")
        for form in (text, text.replace("\0", "")):
            if not self.policy.free and any(self._is_own(word) for word in set(ID_FORM.findall(form))):
                yield RESEARCH_ID
            if any(word.search(form) for word in self.machine):
                yield MACHINE

    def _is_person(self, word: str) -> bool:
        """One of the run's persons; or, since others' IDs are not known here, a word with an ID's hyphen."""
        if self._is_own(word):
            return True
        return "-" in word and not _STANDARDS.fullmatch(word)

    def _is_own(self, word: str) -> bool:
        if word not in self._persons:
            self._persons[word] = bool(persons_used(self.record, [word])) or any(
                keyed_hash(word, key) in cases for key, cases in self.cases
            )
        return self._persons[word]


def _machine_words() -> list[re.Pattern[str]]:
    host = socket.gethostname()
    words = {host, host.split(".")[0], os.uname().nodename, str(Path.home()), _user()}
    return [
        re.compile(rf"(?<![A-Za-z0-9]){re.escape(word)}(?![A-Za-z0-9])")
        for word in words
        if len(word) > 3 and word.lower() not in _GENERIC_USERS | {"localhost", "/root"}
    ]


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):
        return ""
