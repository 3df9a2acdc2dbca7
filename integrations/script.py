"""Runs a script or a module exactly as ``python`` would: its ``__main__``, arguments, search path, exit status and traceback."""

import io
import os
import runpy
import sys
import types
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any


def run_as_main(target: str, arguments: Sequence[str], *, module: bool) -> None:
    """Run a script, a folder or archive with a ``__main__.py``, or a module by name; what it raises comes out of here.

    Args:
        target: path, or module name.
        arguments: its own.
        module: ``target`` is a module's name.

    Raises:
        FileNotFoundError: there is no such script.
    """
    if not sys.flags.safe_path:
        # In the place of the folder of whoever runs it.
        sys.path[0] = os.getcwd() if module else str(Path(target).resolve().parent)
    sys.argv[:] = [target, *arguments]
    try:
        if module:
            runpy.run_module(target, run_name="__main__", alter_sys=True)
        elif Path(target).is_file() and not _is_archive(target):
            _run_file(target)
        else:
            runpy.run_path(target, run_name="__main__")
    except BaseException as error:
        _show_only_its_own_frames(error)
        raise


def _run_file(path: str) -> None:
    place = str(Path(path).absolute())
    main = types.ModuleType("__main__")
    vars(main).update(__file__=place, __builtins__=sys.modules["builtins"], __cached__=None)
    # For good: what the script leaves behind, threads or functions called at exit, belongs to this module.
    sys.modules["__main__"] = main
    with io.open_code(path) as file:
        code = compile(file.read(), place, "exec", dont_inherit=True)
    exec(code, vars(main))  # what the command is for


def _is_archive(path: str) -> bool:
    import zipfile

    return zipfile.is_zipfile(path)


def _show_only_its_own_frames(error: BaseException) -> None:
    """Have the interpreter report the error as if nothing of ours had been called."""
    show = sys.excepthook
    theirs = _without_ours(error.__traceback__)

    def hook(kind: type[BaseException], value: BaseException, trace: TracebackType | None) -> Any:
        if value is not error:
            return show(kind, value, trace)
        value.__traceback__ = theirs
        return show(kind, value, theirs)

    sys.excepthook = hook


def _without_ours(trace: TracebackType | None) -> TracebackType | None:
    """Return the part of a traceback from the first frame of the script on."""
    ours = {__file__, runpy.__file__, "<frozen runpy>"}
    while trace is not None and trace.tb_frame.f_code.co_filename in ours:
        trace = trace.tb_next
    return trace
