"""Checks text files before a commit: white space at the end of lines and file, marks of a merge.

    python tools/check_text.py FILE ...

White space is mended, and the exit status is 1 where something was mended or is wrong; so is a file
of more than a megabyte. Files that are no UTF-8 text are only weighed.
"""

import pathlib
import re
import sys

LARGEST = 1_000_000


def problems(path):
    """Mends the white space of a file; returns what was found, a list of str."""
    raw = path.read_bytes()
    problems_of_file = []
    if len(raw) > LARGEST:
        problems_of_file.append(f"{len(raw):,} bytes, at most {LARGEST:,}")
    if b"\0" in raw:
        return problems_of_file
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        return problems_of_file
    if re.search(r"^(<{7} |>{7} )", text, flags=re.M):
        problems_of_file.append("marks of a merge")
    mended = re.sub(r"[ \t]+$", "", text.replace("\r\n", "\n"), flags=re.M).rstrip("\n")
    if mended:
        mended += "\n"
    if mended != text:
        path.write_bytes(mended.encode())
        problems_of_file.append("white space at ends of lines or of the file, mended")
    return problems_of_file


def main(names):
    """Prints the problems of all files; returns the exit status."""
    all_problems = [(name, text) for name in names for text in problems(pathlib.Path(name))]
    for name, text in all_problems:
        print(f"{name}: {text}")
    return int(bool(all_problems))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
