"""Work on the files of the workspace for the daemon: read, list, write, edit, search, and nothing else.

`main` is a program of the bundle that stays: it takes one request after the other from its standard input and answers on its standard
output, each a JSON object behind its length in four bytes. A request has `op`, `path` as a list of names beneath the directory in which
it was started, `limit`, the most text it may answer with in bytes, and what the operation needs. An answer is `{text, data}` or
`{error, kind, link?, target?}`. It ends by itself when nobody asks for a while, or says nothing more.

It has the rights of any program in the sandbox. That it reaches only what is beneath that directory is `beneath`'s doing. Pages that
were fetched are made readable here, too: what a hostile one costs is the sandbox's time, and ends with this program.
"""

from __future__ import annotations

import os
import select
import stat

from aegis.guest import beneath
from aegis.guest.beneath import Refused, Root, shown
from aegis.guest.passages import NotThere, exchange, is_binary, listed
from aegis.tether.jsontext import dumps_text, loads

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, BinaryIO

#: Seconds without a request after which it ends; a new one starts in a few milliseconds.
_PATIENCE = 60.0
#: The largest request: what one call may write, and room for its escapes.
_MAX_REQUEST = 64 * 1024 * 1024
#: The largest file that is edited, in bytes.
_MAX_EDIT = 16 * 1024 * 1024
_MAX_ENTRIES = 1000
_CHUNK = 256 * 1024


def main() -> None:
    """Answer requests until there are no more, or none for a while."""
    source, sink = os.dup(0), os.dup(1)
    os.dup2(2, 1)  # what prints by mistake is no answer
    waiting = select.poll()
    waiting.register(source, select.POLLIN)
    while waiting.poll(_PATIENCE * 1000):
        head = _exactly(source, 4)
        size = int.from_bytes(head, "big")
        if len(head) < 4 or size > _MAX_REQUEST:
            return
        data = _exactly(source, size)
        if len(data) < size:
            return
        answer = dumps_text(perform(loads(data)))
        view = memoryview(len(answer).to_bytes(4, "big") + answer)
        while view:
            view = view[os.write(sink, view) :]


def perform(request: dict[str, Any]) -> dict[str, Any]:
    """The answer to one request; never raises."""
    try:
        root = Root(".")
        try:
            text, data = _OPERATIONS[request["op"]](root, request["path"], request)
        finally:
            root.close()
        return {"text": text, "data": data}
    except Refused as refused:
        return {"error": str(refused), "kind": refused.kind, **({"link": refused.link, "target": refused.target} if refused.link else {})}
    except NotThere as error:
        return {"error": str(error), "kind": "usage"}
    except OSError as error:
        return {"error": (error.strerror or str(error)).lower(), "kind": "failed"}
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}", "kind": "failed"}


def _exactly(fd: int, size: int) -> bytes:
    """So many bytes, fewer when it ends."""
    data = bytearray()
    while len(data) < size:
        more = os.read(fd, min(_CHUNK, size - len(data)))
        if not more:
            break
        data += more
    return bytes(data)


# Reading.


def _read(root: Root, names: list[str], of: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """The lines from `start_line` to `end_line`, as they are."""
    first, last, limit = max(1, of.get("start_line") or 1), of.get("end_line"), of["limit"]
    if last is not None and last < first:
        raise Refused("usage", f"end_line {last} is before start_line {first}")
    with open(root.file(names), "rb") as file:
        size = os.fstat(file.fileno()).st_size
        if is_binary(file.peek(8192)):
            raise Refused("usage", f"`{shown(names)}` is a binary file of {size} bytes")
        kept, number, cut = _lines(file, first, last, limit)
    text = kept.decode("utf-8", "replace")
    if cut and not text.endswith("\n"):
        text += "\n"
    return text, {"size": size, "truncated": cut, **({"next_line": number} if cut else {})}


def _lines(file: BinaryIO, first: int, last: int | None, limit: int) -> tuple[bytearray, int, bool]:
    """The lines wanted, up to `limit` bytes; the number of the first that was left out; whether there was one."""
    kept = bytearray()
    number, fresh = 1, True
    while last is None or number <= last:
        piece = file.readline(_CHUNK)
        if not piece:
            break
        if number >= first:
            if len(kept) + len(piece) > limit:
                if not kept:  # one line alone is too long: its beginning is better than nothing
                    return bytearray(piece[:limit]), number + 1, True
                return kept, number if fresh else number + 1, True
            kept += piece
        fresh = piece.endswith(b"\n")
        number += fresh
    return kept, number, False


def _list(root: Root, names: list[str], of: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """The entries of a directory: directories with a slash, links with where they lead, files with their size."""
    fd = root.folder(names)
    try:
        found = beneath.entries(fd)
        rows = [_entry(fd, entry) for entry in found[:_MAX_ENTRIES]]
    finally:
        os.close(fd)
    return _rows([row[0] for row in rows], of["limit"], len(found) > _MAX_ENTRIES, "(the directory is empty)", entries=[r[1] for r in rows])


def _entry(fd: int, entry: os.DirEntry[str]) -> tuple[str, dict[str, Any]]:
    name = entry.name
    try:
        status = os.stat(name, dir_fd=fd, follow_symlinks=False)
        if stat.S_ISLNK(status.st_mode):
            target = os.readlink(name, dir_fd=fd)
            return f"{name} -> {target}", {"name": name, "kind": "link", "target": target}
        if stat.S_ISDIR(status.st_mode):
            return f"{name}/", {"name": name, "kind": "directory"}
    except OSError:
        return f"{name}\t?", {"name": name, "kind": "other"}
    kind = "file" if stat.S_ISREG(status.st_mode) else "other"
    return f"{name}\t{status.st_size}", {"name": name, "kind": kind, "size": status.st_size}


# Writing.


def _create_dir(root: Root, names: list[str], of: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    if not names:
        raise Refused("conflict", "the workspace is there already")
    os.close(root.folder(names, make=True))
    return f"`{shown(names)}` is there", {}


def _delete(root: Root, names: list[str], of: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Remove a file or a link, or a directory: an empty one, or with `recursive` all that is in it."""
    parent, name = root.parent(names)
    try:
        try:
            mode = os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode
            if not stat.S_ISDIR(mode):
                os.unlink(name, dir_fd=parent)
                return f"removed `{shown(names)}`", {"removed": 1}
            if not of.get("recursive"):
                os.rmdir(name, dir_fd=parent)
                return f"removed the empty directory `{shown(names)}`", {"removed": 1}
        except OSError as error:
            if error.errno == 39:  # ENOTEMPTY
                raise Refused("conflict", f"`{shown(names)}` is not empty; set recursive to remove all that is in it") from None
            raise beneath.refusal(error, names, parent) from None
        count = beneath.remove(parent, name, names)
    finally:
        os.close(parent)
    return f"removed `{shown(names)}`, {count} entries", {"removed": count}


def _write(root: Root, names: list[str], of: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Make the file hold exactly `content`, with the directories it needs."""
    parent, name = root.parent(names, make=True)
    try:
        try:
            os.stat(name, dir_fd=parent, follow_symlinks=False)
            verb = "replaced"
        except OSError:
            verb = "created"
        data = of["content"].encode("utf-8", "replace")
        beneath.replace(parent, names, data, None)
    finally:
        os.close(parent)
    return f"{verb} `{shown(names)}`, {len(data)} bytes", {"size": len(data), "created": verb == "created"}


def _edit(root: Root, names: list[str], of: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Make all of `edits`, pairs of what stands there exactly once and what is to stand there, one after the other; or none."""
    with open(root.file(names), "rb") as file:
        before = os.fstat(file.fileno())
        if before.st_size > _MAX_EDIT:
            raise Refused("too_large", f"`{shown(names)}` is larger than {_MAX_EDIT} bytes; edit it with a command (sed)")
        data = file.read(_MAX_EDIT + 1)
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        raise Refused("usage", f"`{shown(names)}` is not UTF-8 text; edit it with a command") from None
    edits, places = of["edits"], []
    for number, (old, new) in enumerate(edits, 1):
        try:
            text, found = exchange(shown(names), text, old, new, called="target_content")
        except NotThere as error:
            which = f"edit {number} of {len(edits)}, so none was made: " if len(edits) > 1 else ""
            raise Refused("usage", f"{which}{error}") from None
        places += found
    parent, _ = root.parent(names)
    try:
        beneath.replace(parent, names, text.encode("utf-8", "replace"), before)
    finally:
        os.close(parent)
    return f"edited `{shown(names)}`, line{'s' * (len(places) > 1)} {listed(places)}", {"lines": places[:1000]}


# Searching.


def _glob(root: Root, names: list[str], of: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Files and directories below a directory that are like `pattern`; directories end with a slash."""
    from aegis.guest import patterns

    wanted = [patterns.parts_of(one) for one in patterns.braces(of["pattern"])]
    skipped = patterns.SKIPPED - {name for parts in wanted for name in parts}
    deep = max((len(parts) for parts in wanted), default=0) if not any("**" in parts for parts in wanted) else beneath.DEPTH
    found: list[str] = []
    fd = root.folder(names)
    try:
        for _, path, entry in beneath.walk(fd, skipped, deep=deep):
            if any(patterns.like(list(path), parts) for parts in wanted):
                found.append("/".join((*names, *path)) + ("/" if entry.is_dir(follow_symlinks=False) else ""))
                if len(found) > _MAX_ENTRIES:
                    break
    finally:
        os.close(fd)
    return _rows(found[:_MAX_ENTRIES], of["limit"], len(found) > _MAX_ENTRIES, "(nothing matches)")


def _grep(root: Root, names: list[str], of: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Lines of the text files at or below a path that match the regular expression `pattern`, as `path:line:text`."""
    import re

    from aegis.guest import patterns

    try:
        pattern = re.compile(of["pattern"])
    except (re.error, RecursionError, OverflowError) as error:
        raise Refused("usage", f"the pattern is not a regular expression: {error}") from None
    most = max(1, min(of.get("max") or 100, _MAX_ENTRIES))
    includes = [patterns.parts_of(one) for one in patterns.braces(of["include"])] if of.get("include") else []
    found: list[str] = []

    def look(fd: int, name: str) -> None:
        with open(fd, "rb") as file:
            if os.fstat(fd).st_size <= patterns.MAX_SIZE and not is_binary(file.peek(8192)):
                found.extend(patterns.lines_like(file, name, pattern, most + 1 - len(found)))

    try:
        top = root.folder(names)
    except Refused as refused:
        if not names or refused.kind != "usage":
            raise
        look(root.file(names), shown(names))
    else:
        try:
            for fd, path, _ in beneath.walk(top, patterns.SKIPPED):
                if patterns.included(list(path), includes) and (one := beneath.regular(fd, path[-1])) is not None:
                    look(one, "/".join((*names, *path)))
                    if len(found) > most:
                        break
        finally:
            os.close(top)
    return _rows(found[:most], of["limit"], len(found) > most, "(nothing matches)")


def _markdown(root: Root, names: list[str], of: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """The page `html` as Markdown; `url` is where its links begin."""
    from aegis.guest.markdown import readable

    text, title = readable(of["html"], of["url"])
    data = text.encode("utf-8", "replace")
    cut = len(data) > of["limit"]
    return data[: of["limit"]].decode("utf-8", "ignore") if cut else text, {"title": title[:300], "truncated": cut}


def _rows(rows: list[str], limit: int, more: bool, none: str, **data: Any) -> tuple[str, dict[str, Any]]:
    """One line each, up to `limit` bytes. `more` says that there were others, `none` is said when there is nothing."""
    kept, size = 0, 0
    for row in rows:
        size += len(row.encode("utf-8", "replace")) + 1
        if size > limit:
            break
        kept += 1
    cut = more or kept < len(rows)
    text = "\n".join(rows[:kept]) or none
    for name, value in data.items():
        data[name] = value[:kept]
    return f"{text}\n[only the first {kept} are shown; narrow it down]" if cut else text, {"count": kept, "truncated": cut, **data}


_OPERATIONS: dict[str, Callable[[Root, list[str], dict[str, Any]], tuple[str, dict[str, Any]]]] = {
    "read": _read,
    "list": _list,
    "create_dir": _create_dir,
    "delete": _delete,
    "write": _write,
    "edit": _edit,
    "glob": _glob,
    "grep": _grep,
    "markdown": _markdown,
}
