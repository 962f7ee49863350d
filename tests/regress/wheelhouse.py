"""Wheels of packages that are installed here, so that pip can install them with no network."""

import base64
import csv
import hashlib
import importlib.metadata
import io
import re
import zipfile

from packaging.requirements import Requirement

LEFT = ("INSTALLER", "REQUESTED", "RECORD", "direct_url.json")
"""Files of an installed package that its wheel had not, or that are written anew."""


def fill(folder, *names):
    """Writes the wheels of packages and of all that they need."""
    wanted, seen = list(names), set()
    while wanted:
        name = re.sub(r"[-_.]+", "-", wanted.pop()).lower()
        if name in seen:
            continue
        seen.add(name)
        found = importlib.metadata.distribution(name)
        repack(found, folder)
        for text in found.requires or []:
            requirement = Requirement(text)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                wanted.append(requirement.name)


def repack(found, folder):
    """Writes the wheel of one installed package; pip makes its commands again."""
    tags = [line.removeprefix("Tag: ") for line in found.read_text("WHEEL").splitlines()
            if line.startswith("Tag: ")]
    kept = [file for file in found.files
            if ".." not in file.parts and "__pycache__" not in file.parts
            and file.name not in LEFT]
    (info,) = {file.parts[0] for file in found.files if file.parts[0].endswith(".dist-info")}
    name = f"{info.removesuffix('.dist-info')}-{tags[0]}.whl"
    record = io.StringIO()
    rows = csv.writer(record, lineterminator="\n")
    with zipfile.ZipFile(folder / name, "w") as wheel:
        for file in kept:
            content = file.locate().read_bytes()
            digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=")
            wheel.writestr(file.as_posix(), content)
            rows.writerow([file.as_posix(), f"sha256={digest.decode()}", len(content)])
        rows.writerow([f"{info}/RECORD", "", ""])
        wheel.writestr(f"{info}/RECORD", record.getvalue())
