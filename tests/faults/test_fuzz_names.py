"""Whatever a result, a round or a run is called, nothing outside the run directory is made, changed or removed."""

from __future__ import annotations

import os
import re
import shutil
import stat
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from seal_lightning.core.errors import ConfigError, RunError
from seal_lightning.core.names import checked_name, checked_run_dir
from seal_lightning.storage.run_dir import RunDir

CASES = 1_000

PLAIN = re.compile(r"(?!.*\.\.)[A-Za-z0-9_]([A-Za-z0-9._-]{0,98}[A-Za-z0-9_-])?")
"""The rule said once more, by other means."""

PIECES = (
    *(
        "..",
        "../",
        "/",
        "//",
        "\\",
        "..\\",
        "./",
        ".",
        "~",
        "~root",
        "-",
        "--",
        "%2e%2e%2f",
        "..%2f",
        "$HOME",
        "`id`",
        "*",
    ),
    *("．．", "／", "．", "⁄", "∕", "＼", "․", "‥", "…", "ａ", "ﬁ", "①", "é", "e\u0301", "İ", "\u00a0", "\u3000", "¹"),
    *(
        "\0",
        "\n",
        "\r",
        "\t",
        "\x1b[2J",
        "\x7f",
        "\x85",
        "\u2028",
        "\u202e",
        "\u200b",
        "\ufeff",
        "\ud800",
        "\udc80",
        "😀",
    ),
    *(
        "CON",
        "nul",
        "Aux.txt",
        "COM1",
        "lpt9.json",
        "COM¹",
        "CONIN$",
        "C:",
        "C:\\",
        "\\\\host\\share",
        "a:b",
        "file.txt::$DATA",
    ),
    *(
        "s3://b/",
        "file:///",
        "https://",
        "memory://",
        "simplecache::",
        "zip://a::",
        " ",
        ". ",
        " .",
        ".tmp",
        ".json",
        "x" * 300,
    ),
    *("etc/passwd", "outside/kept", "round_0", "results", "checkpoints", "config.yaml", "linked", "test", "a", "1"),
)

plain_names = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,20}(\.[a-z0-9]{1,5})?", fullmatch=True)
hostile_names = st.one_of(
    st.lists(st.one_of(st.sampled_from(PIECES), plain_names), min_size=1, max_size=5).map("".join),
    st.tuples(plain_names, st.sampled_from(PIECES)).map("".join),
    st.tuples(st.sampled_from(PIECES), plain_names).map("".join),
    st.text(st.characters(exclude_categories=()), max_size=30),
    st.sampled_from(PIECES),
    st.integers(95, 5_000).map("n".__mul__),
)
names = st.booleans().flatmap(lambda plain: plain_names if plain else hostile_names)


def fuzzed(check: Callable[..., None], count: int, **strategies: Any) -> None:
    """Run the check on so many cases, always the same."""
    options = settings(
        max_examples=count,
        derandomize=True,
        database=None,
        deadline=None,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )
    options(given(**strategies)(check))()


def check_message(error: Exception) -> None:
    """It steers no terminal and floods none."""
    assert str(error).isprintable()
    assert len(str(error)) < 1_000


class Sandbox:
    """A folder with a run in it, a home directory, and things around that must stay as they are."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.run = folder / "here" / "run"
        (folder / "here").mkdir()
        (folder / "home").mkdir()
        for name in ("outside/kept", "here/neighbour", "home/.profile", "outside/round_0/policy/kept"):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(name)
        self.before = self.snapshot()

    def snapshot(self) -> dict[str, tuple[Any, ...]]:
        """Everything but the run: kind, rights, time, and content."""
        found = {}
        for path in [self.folder, *self.folder.rglob("*")]:
            if path == self.run or self.run in path.parents:
                continue
            status = path.lstat()
            content = path.read_bytes() if stat.S_ISREG(status.st_mode) else None
            changed = status.st_mtime_ns if path != self.run.parent else None  # the run is made and removed there
            found[str(path)] = (status.st_mode, changed, content)
        return found

    def renew(self, linked: str | None) -> RunDir:
        """An empty run; ``linked`` leads out of it."""
        shutil.rmtree(self.run, ignore_errors=True)
        self.run.mkdir()
        (self.run / "inside").mkdir()
        (self.run / "linked").symlink_to("inside")
        if linked is not None:
            (self.run / linked).parent.mkdir(parents=True, exist_ok=True)
            target = self.folder / "outside" / ("kept" if linked.endswith(".json") else "")
            (self.run / linked).symlink_to(target)
        return RunDir(self.run)


@pytest.fixture
def sandbox(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sandbox:
    made = Sandbox(tmp_path)
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return made


def test_sandbox_sees_every_write(sandbox: Sandbox) -> None:
    """Otherwise the tests below would pass on nothing."""
    for name in ("outside/kept", "outside/new", "here/new", "home/x/y"):
        (sandbox.folder / name).parent.mkdir(exist_ok=True)
        (sandbox.folder / name).write_text("other")
        assert sandbox.snapshot() != sandbox.before
        sandbox.before = sandbox.snapshot()


LINKS = (None, None, None, "results", "round_0", "results/test.json", "results/a.json", "checkpoints")


@pytest.mark.slow
def test_result_names_stay_in_the_run_dir(counted: Callable[[int], int], sandbox: Sandbox) -> None:
    seen: Counter[str] = Counter()

    def check(name: str, suffix: str, linked: str | None, action: str) -> None:
        run = sandbox.renew(linked)
        before = {path: path.lstat().st_mtime_ns for path in run.path.rglob("*") if not path.is_dir()}
        try:
            if action == "text":
                path = run.write_text_result(name, suffix, "x")
            elif action == "json":
                path = run.write_result(name, {"a": [1]})
            else:
                path = run.round(name)  # type: ignore[arg-type] (a number, by its type)
                path.mkdir()
                path = path / "made"
                path.write_text("x")
        except (ConfigError, RunError) as error:
            check_message(error)
            seen[f"{action} refused"] += 1
            right = all(PLAIN.fullmatch(text) for text in (name, suffix))
            assert linked is not None or not right or action == "round"
        else:
            seen[f"{action} accepted"] += 1
            assert action == "round" or PLAIN.fullmatch(name)
            assert path.is_relative_to(run.path)
            assert Path(os.path.realpath(path)).is_relative_to(os.path.realpath(run.path))
            assert path.is_file()
            assert not path.is_symlink()
        assert before.items() <= {path: path.lstat().st_mtime_ns for path in run.path.rglob("*")}.items()
        assert sandbox.snapshot() == sandbox.before

    endings = st.sampled_from(("json", "jsonl", "txt", "md"))
    suffixes = st.integers(0, 4).flatmap(lambda kind: endings if kind else names)
    actions = st.sampled_from(("text", "json", "round"))
    fuzzed(check, counted(CASES), name=names, suffix=suffixes, linked=st.sampled_from(LINKS), action=actions)
    print(f"\n{dict(sorted(seen.items()))}")
    for action in ("text", "json", "round"):
        assert seen[f"{action} accepted"] >= 0.3 * (seen[f"{action} accepted"] + seen[f"{action} refused"])
        assert seen[f"{action} refused"] >= 0.1 * (seen[f"{action} accepted"] + seen[f"{action} refused"])


def test_checked_name_follows_its_rule(counted: Callable[[int], int]) -> None:
    seen: Counter[bool] = Counter()

    def check(name: str) -> None:
        right = PLAIN.fullmatch(name) is not None
        seen[right] += 1
        if right:
            assert checked_name(name, "it") == name
        else:
            with pytest.raises(ConfigError) as caught:
                checked_name(name, "it")
            check_message(caught.value)

    fuzzed(check, counted(CASES // 4), name=names)
    print(f"\n{seen[True]} accepted, {seen[False]} refused")
    assert min(seen[True], seen[False]) >= 0.3 * (seen[True] + seen[False])


part = st.one_of(
    plain_names, plain_names, plain_names, st.sampled_from((".", "runs", "日本", "a b", "run\u00a01", "-", "..."))
)
plain_paths = st.lists(part, min_size=1, max_size=4).map("/".join)
hostile_paths = st.lists(st.one_of(plain_names, st.sampled_from(PIECES)), min_size=1, max_size=5).flatmap(
    lambda parts: st.sampled_from(("/", "")).map(lambda between: between.join(parts))
)
fixed_paths = st.sampled_from(
    (
        "",
        " ",
        ".",
        "..",
        "/",
        "//",
        "/./",
        "~",
        "neighbour",
        "../home",
        "../outside",
        "neighbour/run",
        "link",
        "link/run",
    )
)
paths = st.one_of(plain_paths, plain_paths, hostile_paths, hostile_names, fixed_paths)


@pytest.mark.slow
def test_run_dir_is_where_it_was_named(counted: Callable[[int], int], sandbox: Sandbox) -> None:
    """Relative paths that are accepted are written to: all that comes of it is in that folder."""
    (sandbox.folder / "here" / "link").symlink_to("/")
    sandbox.before = sandbox.snapshot()
    seen: Counter[str] = Counter()

    def check(path: str, as_path: bool) -> None:
        try:
            found = checked_run_dir(Path(path) if as_path else path)
        except ConfigError as error:
            check_message(error)
            seen["refused"] += 1
            return
        seen["accepted"] += 1
        assert found == Path(path)
        assert ".." not in found.parts
        assert not re.search(r"[\0-\x1f\x7f-\x9f\ud800-\udfff]|://", path if not as_path else str(found))
        assert os.path.realpath(found) not in ("/", os.path.realpath(sandbox.folder / "home"))
        assert all(len(part.encode()) <= 255 for part in found.parts)
        if found.is_absolute() or found.parts[:1] == ("link",):
            return
        assert Path(os.path.realpath(found)).is_relative_to(sandbox.folder / "here")
        run = RunDir.named(found)
        try:
            run.check_writable()
            made = run.write_result("test", 1)
        except RunError:  # as a whole too long, or a file on the way
            seen["not writable"] += 1
        else:
            seen["written"] += 1
            assert Path(os.path.realpath(made)).is_relative_to(sandbox.folder / "here")
        if found.parts:
            assert (sandbox.folder / "here" / "neighbour").read_text() == "here/neighbour"
            top = sandbox.folder / "here" / found.parts[0]
            if top.is_dir():
                shutil.rmtree(top)
        else:
            shutil.rmtree(sandbox.folder / "here" / "results")
        assert sandbox.snapshot() == sandbox.before

    fuzzed(check, counted(CASES), path=paths, as_path=st.booleans())
    print(f"\n{dict(seen)}")
    assert seen["accepted"] >= 0.3 * (seen["accepted"] + seen["refused"])
    assert seen["refused"] >= 0.1 * (seen["accepted"] + seen["refused"])
    assert seen["written"] >= 0.2 * (seen["accepted"] + seen["refused"])
