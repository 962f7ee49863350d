"""All commands, and how errors end them; heavy modules are imported where a command needs them."""

from __future__ import annotations

import errno
import os
import signal
import sys
from typing import Any

import typer
import typer.core

from bench_apts import __version__
from bench_apts.cli import (
    calibrate,
    check,
    compare,
    cost,
    gallery,
    import_,
    info,
    list_,
    merge,
    meter,
    new,
    power,
    project,
    report,
    run,
    selftest,
    show,
    slurm,
    test,
    track,
    traffic,
    tune,
)
from bench_apts.core.errors import UserError, explain_shortage, one_line

# Typer exports no base class of its usage errors but this subclass.
_MisusedOption: Any = typer.BadParameter.__mro__[1]

_NAME = "bench-apts"


class _Interruption(BaseException):
    """Ctrl-C, which Typer would turn into an exit code without a line."""


class _Group(typer.core.TyperGroup):
    """The commands."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command; Ctrl-C passes Typer unchanged."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as error:
            raise _Interruption from error


app = typer.Typer(
    name=_NAME,
    cls=_Group,
    help="Which optimizer reaches the accuracy you need, on N GPUs, for the least time, bytes "
         "and total bill, tuning included?",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command("run")(run.command)
app.command("tune")(tune.command)
app.command("new", short_help="Write a small suite that runs, to be changed.")(new.command)
app.command("calibrate")(calibrate.command)
app.command("test", short_help="Test a suite: data, loss, target and two steps at N = 1 and 2.")(
    test.command)
app.command("list")(list_.command)
app.command("show")(show.command)
app.command("info")(info.command)
app.command("report")(report.command)
app.command("gallery")(gallery.command)
app.command("check", short_help="Check records, or whether a change costs time or traffic.")(
    check.command)
app.command("compare")(compare.command)
app.command("merge")(merge.command)
app.add_typer(import_.app, name="import")
app.command("meter", context_settings=meter.SETTINGS)(meter.command)
app.command("project")(project.command)
app.command("traffic")(traffic.command)
app.command("cost")(cost.command)
app.command("power")(power.command)
app.command("selftest", short_help="Check instruments and optimizers on a GPU.")(
    selftest.command)
app.command("track", short_help="Measure this commit with asv.")(track.command)
app.command("slurm", context_settings=slurm.SETTINGS)(slurm.command)


def _version(asked: bool) -> None:
    if asked:
        print(f"{_NAME} {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: bool = typer.Option(
        False, "--version", help="Print the version and exit.", callback=_version, is_eager=True),
) -> None:
    pass


def main() -> None:
    """Run a command; errors that a user can correct end in one line and exit code 2."""
    try:
        _readable(sys.argv)
        code = app(prog_name=_NAME, standalone_mode=False)
        sys.stdout.flush()  # here a full disk can still be reported in one line
    except UserError as error:
        _fail(str(error), 2)
    except _MisusedOption as error:
        # Without arguments this is the help text, which has many lines.
        if len(sys.argv) == 1:
            print(error.format_message(), file=sys.stderr)
            sys.exit(2)
        command = error.ctx.command_path if error.ctx else _NAME
        _fail(f"{error.format_message().rstrip('.?')}; see `{command} --help`", 2)
    except (typer.Abort, _Interruption) as error:
        raise KeyboardInterrupt from error
    except BrokenPipeError:
        # The reader of the output has ended, as `| head` does.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(128 + signal.SIGPIPE)
    except (OSError, RuntimeError, MemoryError, ImportError) as error:
        if why := explain_shortage(error):
            _fail(why, 2)
        if not isinstance(error, OSError) or error.errno not in (
                errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EIO, errno.ESTALE):
            raise
        _fail(f"{error.filename or 'output'}: {error.strerror}; finished trials are kept, make "
              "room or choose another folder with --out", 2)
    sys.exit(code if isinstance(code, int) else 0)


def _readable(arguments: list[str]) -> None:
    """Refuse arguments that no record could hold."""
    for argument in arguments:
        try:
            argument.encode()
        except UnicodeEncodeError as error:
            raise UserError(f"argument {argument!a} is not valid UTF-8") from error


def _fail(message: str, code: int) -> None:
    print(f"{_NAME}: {one_line(message)}", file=sys.stderr)
    sys.exit(code)
