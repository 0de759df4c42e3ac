import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from prismrec.base.errors import DamagedError, InputError, MissingExtraError, SealedError
from prismrec.cli import verbs

VERBS = (
    "demo",
    "ingest",
    "encode",
    "models",
    "train",
    "evaluate",
    "recommend",
    "similar",
    "add-items",
    "source",
    "bench",
)
COMMON = ("--json", "--quiet", "--debug")


def run(*words: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "prismrec", *words],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **env},
    )


@pytest.mark.parametrize("verb", VERBS)
def test_each_verb_has_help_with_an_example_of_itself(call, verb: str) -> None:
    done = call(verb, "--help")
    assert done.code == 0
    assert "Example" in done.stdout
    assert f"prismrec {verb}" in done.stdout.partition("Example")[2]
    for option in COMMON:
        assert option in done.stdout


def test_help_lists_the_verbs_and_imports_no_library() -> None:
    code = (
        "import sys\n"
        "sys.argv = ['prismrec', '--help']\n"
        "from prismrec.cli import main\n"
        "try:\n    main()\n"
        "except SystemExit as end:\n    assert not end.code\n"
        "heavy = {'torch', 'polars', 'numba', 'numpy', 'scipy', 'sklearn', 'pyarrow'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for verb in VERBS:
        assert f" {verb} " in done.stdout


def test_module_runs_and_an_error_gives_its_exit_code_and_one_document(tmp_path: Path) -> None:
    done = run("similar", str(tmp_path / "nowhere"), "--item", "i7", "--json")
    assert done.returncode == 3
    error = json.loads(done.stdout)["error"]
    assert error["kind"] == "InputError"
    assert error["exit_code"] == 3
    assert "nowhere" in error["problem"]
    assert error["problem"] in done.stderr
    assert "Traceback" not in done.stderr


def test_a_reader_that_goes_away_is_no_error_with_a_traceback() -> None:
    # Nobody reads from the pipe: its reading end is closed before the process starts.
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "prismrec", "models"],
            stdout=writing,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    finally:
        os.close(writing)
    assert done.returncode == verbs.READER_GONE
    assert done.stderr == ""


def test_version(call) -> None:
    import prismrec

    assert call("--version").stdout == f"prismrec {prismrec.__version__}\n"


def test_a_verb_that_is_misspelt_is_a_usage_error_that_names_the_nearest(call) -> None:
    done = call("trian")
    assert done.code == 2
    assert "'train'" in done.stderr


def test_an_unknown_option_is_a_usage_error_and_a_document_with_json(call) -> None:
    done = call("models", "--nonsense", "--json")
    assert done.code == 2
    assert done.document["error"]["exit_code"] == 2
    assert "--nonsense" in done.document["error"]["problem"]


@pytest.mark.parametrize(
    ("error", "kind", "code"),
    [
        (InputError("p", "h"), "InputError", 3),
        (MissingExtraError("tensorboard", "tensorboard", "Logging"), "MissingExtraError", 4),
        (DamagedError("p"), "DamagedError", 5),
        (OSError(errno.ENOSPC, "No space left on device", "/x/y"), "StorageError", 6),
        (PermissionError(errno.EACCES, "Permission denied", "/x/y"), "StorageError", 6),
        (SealedError("p"), "SealedError", 7),
        (ZeroDivisionError("division by zero"), "Unexpected", 1),
        (FileNotFoundError(errno.ENOENT, "No such file", "/x/y"), "Unexpected", 1),
        (KeyboardInterrupt(), "Interrupted", 130),
    ],
)
def test_every_error_has_its_exit_code(
    error: BaseException, kind: str, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert verbs.report(error, as_json=True, debug=False) == code
    printed = capsys.readouterr()
    document = json.loads(printed.out)["error"]
    assert (document["kind"], document["exit_code"]) == (kind, code)
    assert document["problem"] in printed.err
    assert "Traceback" not in printed.err


def test_an_error_nobody_expected_says_how_to_get_the_traceback(
    call, monkeypatch: pytest.MonkeyPatch
) -> None:
    from prismrec.models import catalogue

    def broken(name: str) -> None:
        raise RuntimeError("the wheel\ncame off")

    monkeypatch.setattr(catalogue, "config_of", broken)
    done = call("models", "mamex")
    assert done.code == 1
    assert "the wheel came off" in done.stderr
    assert "--debug" in done.stderr
    assert "Traceback" not in done.stderr
    assert "Traceback" in call("models", "mamex", "--debug").stderr
    monkeypatch.setenv("PRISMREC_DEBUG", "1")
    assert "Traceback" in call("models", "mamex").stderr


def test_an_interruption_in_a_verb_ends_it_with_130(call, monkeypatch: pytest.MonkeyPatch) -> None:
    from prismrec.models import catalogue

    def interrupted(name: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(catalogue, "config_of", interrupted)
    assert call("models", "mamex").code == verbs.INTERRUPTED


@pytest.mark.parametrize(("given", "expected"), [(None, "PASSIVE"), ("ACTIVE", "ACTIVE")])
def test_threads_wait_without_spinning_unless_told_otherwise(given, expected) -> None:
    script = (
        "import os, sys; sys.argv = ['prismrec', '--version']\n"
        "from prismrec.cli import main\n"
        "try: main()\n"
        "except SystemExit: print(os.environ['OMP_WAIT_POLICY'])"
    )
    env = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    env |= {} if given is None else {"OMP_WAIT_POLICY": given}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=env, check=True)
    assert done.stdout.split()[-1] == expected
