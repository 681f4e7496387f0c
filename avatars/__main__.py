"""The command line: `avatars COMMAND …`. It finds the command, parses its flags, and turns errors into one clear line.

Exit codes: 0 done, 1 a bug or a failed benchmark, 2 the input or the command line was wrong, 130 interrupted.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import importlib
import io
import re
import shlex
import sys
import typing
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from avatars import __version__
from avatars.commands import COMMANDS, Console
from avatars.errors import UserError
from avatars.files import FULL, disk_full

_EPILOGUE = (
    ("the whole way on the sample capture, ending in the browser", "avatars demo"),
    ("the same on a capture of yours, unattended", "avatars demo --capture studio/take-07 --out out/take-07 --no-view"),
    (
        "an avatar driven by a Live Link Face recording, with sound",
        "avatars drive out/demo/avatar --codes take.csv --audio take.wav --out clip.mp4",
    ),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line; returns the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    warnings.showwarning = _show_warning
    try:
        return _run(arguments)
    except UserError as error:
        _fail(str(error))
        return 2
    except KeyboardInterrupt:
        _fail(
            f"\nInterrupted. What was finished is kept; to go on where it stopped, run the same again:\n  {shlex.join(['avatars', *arguments])}"
        )
        return 130
    except BrokenPipeError:
        return 0
    except OSError as error:
        if error.errno in FULL:
            _fail(str(disk_full(error.filename)) if error.filename else "The disk is full. Free some space and run the same command again.")
        elif isinstance(error, PermissionError):
            _fail(f"{error.filename} may not be read or written. Choose another --out, or change its permissions.")
        elif error.filename is not None:  # a folder where a file should be, a place where nothing can be made, a disk that fails …
            _fail(f"{error.filename} cannot be read or written: {error.strerror}. Check the path, or choose another --out.")
        else:
            raise
        return 2


def _run(arguments: list[str]) -> int:
    for text in arguments:
        if any("\udc80" <= c <= "\udcff" for c in text):  # bytes that are no UTF-8; neither JSON nor a terminal takes them
            raise UserError(f"{ascii(text)}: this name is not valid UTF-8. Rename the file or folder.")
    name, rest = _split(arguments)
    if name is None:
        return _without_command(arguments)
    module = importlib.import_module(f"avatars.commands.{name}")
    command = _parse(name, module, rest)
    if command is None:  # --help
        return 0
    return int(command.run(Console()) or 0)


def _split(arguments: list[str]) -> tuple[str | None, list[str]]:
    """The command's name, wherever it stands among the flags, and the other arguments.

    A word behind a flag may be the flag's value (`--out demo`), so it counts only when no other word is a command.
    """
    places = [i for i, text in enumerate(arguments) if text in COMMANDS]
    free = [i for i in places if i == 0 or not arguments[i - 1].startswith("-")]
    if not places:
        return None, arguments
    at = (free or places)[0]
    words = [a for i, a in enumerate(arguments[:at]) if not a.startswith("-") and (i == 0 or not arguments[i - 1].startswith("-"))]
    return (None, arguments) if words else (arguments[at], arguments[:at] + arguments[at + 1 :])


def _without_command(arguments: list[str]) -> int:
    if "--version" in arguments:
        print(f"avatars {__version__}")
        return 0
    words = [a for a in arguments if not a.startswith("-")]
    if not words:
        wrong = [a for a in arguments if a not in ("-h", "--help")]
        if wrong:
            raise UserError(f"avatars: {wrong[0]} needs a command before or after it: {', '.join(COMMANDS)}.")
        print(_help())
        return 0
    near = {word: found[0] for word in words if (found := difflib.get_close_matches(word, COMMANDS, 1, 0.5))}
    wrong = next(iter(near), words[0])
    hint = f"Did you mean `avatars {near[wrong]}`?" if near else f"Commands: {', '.join(COMMANDS)}."
    raise UserError(f"avatars: there is no command '{wrong}'. {hint} See avatars --help.")


def _help() -> str:
    width = max(map(len, COMMANDS))
    lines = [
        "usage: avatars COMMAND [OPTIONS]",
        "",
        "Photoreal, animatable head avatars from multi-view captures, on a CPU or on CUDA.",
        "",
        "commands:",
    ]
    lines += [f"  {name:<{width}}  {summary}" for name, summary in COMMANDS.items()]
    lines += ["", _examples(_EPILOGUE), "", "`avatars COMMAND --help` explains one command; `avatars --version` says which this is."]
    return "\n".join(lines)


def _examples(examples: Sequence[tuple[str, str]]) -> str:
    return "examples:\n" + "\n".join(f"  # {what}\n  {line}" for what, line in examples)


def _parse(name: str, module: Any, arguments: list[str]) -> Any:
    """The command as a dataclass instance; None when help was asked for and printed."""
    import tyro

    schema = module.command()
    options: dict[str, Any] = {}
    if defaults := _defaults(schema, arguments):
        options["default"] = defaults
    config = (
        tyro.conf.CascadeSubcommandArgs,
        tyro.conf.OmitSubcommandPrefixes,
        tyro.conf.FlagCreatePairsOff,
    )
    errors = io.StringIO()
    try:
        with contextlib.redirect_stderr(errors):
            return tyro.cli(schema, prog=f"avatars {name}", args=arguments, config=config, **options)
    except SystemExit as end:
        if end.code in (0, None):
            print(_examples(module.EXAMPLES))
            return None
        raise UserError(f"avatars {name}: {_plain(errors.getvalue())} See avatars {name} --help.") from None
    except ValueError as error:  # a dataclass that checks its values
        raise UserError(f"avatars {name}: {error}. See avatars {name} --help.") from None


def _defaults(schema: type, arguments: list[str]) -> Any:
    """An instance whose `settings` come from the file named by --config; None without one."""
    from avatars.config import load_config

    path = None
    for i, text in enumerate(arguments):
        if text == "--config" and i + 1 < len(arguments):
            path = arguments[i + 1]
        elif text.startswith("--config="):
            path = text.removeprefix("--config=")
    fields = {f.name: f for f in dataclasses.fields(schema)}
    if path is None or "settings" not in fields:
        return None
    import tyro

    settings_type = typing.get_type_hints(schema)["settings"]
    required = {
        f.name: tyro.MISSING for f in fields.values() if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    }
    return schema(**{**required, "settings": load_config(settings_type, Path(path))})


def _plain(box: str) -> str:
    """tyro's framed error as one line."""
    lines = [re.sub(r"\x1b\[[0-9;]*m", "", line) for line in box.splitlines()]
    required = bool(lines) and "Required options" in lines[0]
    texts: list[str] = []
    for line in lines[1:]:
        if re.fullmatch(r"[│|+─╭╮╰╯ -]*", line):  # a rule of the frame, drawn with ASCII where the terminal has nothing better
            continue
        text = line.strip("│| ")
        depth = line.index(text)
        if text.startswith(("Argument helptext", "For full helptext")):
            break
        if text.startswith("Missing from") or (required and depth > 6):
            continue  # of what is missing the names are enough
        if text.startswith("Perhaps you meant"):
            texts[-1] += "."
        texts.append(text)
        if len(texts) > 1 and texts[-2].startswith("Perhaps you meant"):
            break
    sentence = re.sub(r"\s+", " ", (", " if required else " ").join(texts)).replace("Perhaps you meant: ", "Did you mean ")
    sentence = f"{'missing ' if required else ''}{sentence}"
    return sentence if sentence.endswith((".", "!", "?")) else f"{sentence}."


def _show_warning(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, file: Any = None, line: str | None = None
) -> None:
    print(f"note: {message}", file=sys.stderr)


def _fail(text: str) -> None:
    print(text, file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
