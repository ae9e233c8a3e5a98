"""README and guides are kept honest: commands run (shrunk), names and links exist, the opening commands are CI's."""

import re
import shlex
from importlib import import_module
from itertools import pairwise
from pathlib import Path

import pytest
import yaml
from adaptations import Case
from fakes import write_tiny_model
from test_arc_end_to_end import config as arc_config
from test_end_to_end import config

from seal_lightning.cli.commands import serve
from seal_lightning.cli.main import TRAINER_SUBCOMMANDS, main

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
GUIDES = (
    "adapt",
    "arc",
    "data-and-models",
    "deviations",
    "experiments",
    "extending",
    "failures",
    "inner-loop",
    "results",
    "run-directory",
)
PAGES = "\n".join(
    path.read_text(encoding="utf-8") for path in (ROOT / "README.md", *(ROOT / f"docs/{name}.md" for name in GUIDES))
)
BLOCKS = re.findall(r"```(bash|yaml|python)\n(.*?)```", PAGES, re.DOTALL)
SEAL_COMMANDS = [
    line.split("#")[0].strip()
    for kind, block in BLOCKS
    if kind == "bash"
    for part in block.splitlines()
    for line in part.split("&&")
    if line.strip().removeprefix(".venv/bin/").startswith("seal ")
]


def test_it_begins_with_exactly_two_commands() -> None:
    opening = README.split("## ")[0]
    blocks = re.findall(r"```bash\n(.*?)```", opening, re.DOTALL)
    assert [len(block.strip().splitlines()) for block in blocks] == [1, 1]
    assert "<!-- quickstart -->\n```bash" in opening
    assert "<!-- tests -->\n```bash" in opening


def test_there_are_commands_to_check() -> None:
    assert len(SEAL_COMMANDS) >= 8


@pytest.fixture(scope="module")
def finished_run(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_dir = tmp_path_factory.mktemp("readme") / "run"
    settings = config(tiny_folder, run_dir, rounds=1)
    settings["data"]["validation"] = {"class_path": "fakes.ToyTasks", "init_args": {"num_tasks": 1, "offset": 30}}
    path = run_dir.parent / "settings.yaml"
    path.write_text(yaml.safe_dump(settings))
    assert main(["fit", "-c", str(path)]) == 0
    return run_dir


@pytest.fixture(scope="module")
def finished_arc_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("readme_arc")
    tiny = write_tiny_model(folder / "tiny", max_length=4096)
    path = arc_config(tiny, folder / "run")
    assert main(["fit", "-c", str(path)]) == 0
    return folder / "run"


@pytest.fixture(scope="module")
def finished_quickstart(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The quickstart's configuration with a tiny model and few passages."""
    folder = tmp_path_factory.mktemp("readme_quickstart")
    tiny = write_tiny_model(folder / "tiny", max_length=4096)
    less = {
        "run_dir": str(folder / "run"),
        "trainer": {"enable_progress_bar": False},
        "model": {
            "pretrained": {"source": str(tiny)},
            "num_edits": 2,
            "sampling": {"max_new_tokens": 6},
            "domain": {"init_args": {"adapter": {"rank": 2, "alpha": 4, "target_modules": None, "layers": None}}},
        },
        "data": {name: {"init_args": {"limit": 2}} for name in ("train", "test")},
    }
    path = folder / "less.yaml"
    path.write_text(yaml.safe_dump(less))
    assert main(["fit", "-c", str(ROOT / "configs/quickstart.yaml"), "-c", str(path)]) == 0
    assert main(["test", "--run", str(folder / "run")]) == 0
    return folder / "run"


SHRUNK = {
    "single": ["--data.test.init_args.limit", "3"],
    "cpt": ["--data.test.init_args.limit", "3", "--model.protocol.init_args.num_tasks", "3"],
    "against-forgetting": [
        "--data.test.init_args.limit",
        "3",
        "--model.protocol.init_args.num_steps",
        "2",
        "--model.protocol.init_args.num_sequences",
        "2",
    ],
    "continual": [
        "--data.test.init_args.limit",
        "3",
        "--model.protocol.init_args",
        "{'num_steps': 2, 'num_sequences': 2}",
    ],
}


def check_protocol(words: list[str], run: Path) -> None:
    """`seal test` under a protocol of the README, on few passages."""
    files = [str(ROOT / word) if word.startswith("configs/") else word for word in words]
    (fewer,) = (options for name, options in SHRUNK.items() if any(name in word for word in words))
    if "--run" not in words:  # the pretrained model alone
        fewer = ["-c", str(run.parent / "less.yaml"), "--run_dir", str(run.parent / "untrained"), *fewer]
    assert main([str(run) if word == "runs/quickstart" else word for word in files] + fewer) == 0


ADAPTED = ("adapt", "adapters", "ask", "lm_eval", "serve")


def check_adapted(words: list[str], tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """A command about adapted folders, on tiny ones."""
    if words[0] == "adapt":
        case = Case(tmp_path / "case")
        assert all((ROOT / word).exists() for word in words if word.startswith("docs/"))
        assert main(case.words("out", *[word for word in words if word in ("--continual", "--merged")])) == 0
        return
    folder = str(request.getfixturevalue("adapted"))
    words = [folder if word in ("DIR", "adapted/docs") else word for word in words]
    if words[0] == "serve":  # it never ends
        assert serve._parser().parse_args(words[1:]).dir
    else:
        options = ["--limit", "2"] if words[0] == "lm_eval" else []
        assert main([*words, *options]) == 0


@pytest.mark.slow
@pytest.mark.parametrize("command", dict.fromkeys(SEAL_COMMANDS))
def test_a_command_runs_shrunk(
    command: str, finished_run: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Each `seal` line of the README, its run, model and configs replaced by tiny ones."""
    words = shlex.split(command.removeprefix(".venv/bin/").replace("[", "").replace("…]", "").replace("]", ""))[1:]
    files = [ROOT / word for word in words if word.startswith("configs/")]
    assert all(file.exists() for file in files)
    if words[0] == "fit" and "--resume" not in words:
        tiny = finished_run.parent / "settings.yaml"
        options = [w for flag, w in pairwise(words) if flag.startswith("--model.")]
        assert options or files or "CONFIG" in words
        assert main(["fit", "-c", str(tiny), "--run_dir", str(tmp_path / "run")]) == 0
        return
    if words[0] == "search":
        run = str(request.getfixturevalue("finished_arc_run"))
        assert words[1] in ("RUN", "runs/arc-smollm2")
        assert main(["search", run, *words[2:], *([] if "--limit" in words else ["--limit", "2"])]) == 0
        return
    if words[0] in ("report", "compare", "sweep") or "configs/" in command:
        quick = request.getfixturevalue("finished_quickstart")
        names = {name: str(quick) for name in ("RUN", "OTHER_RUN", "runs/quickstart")}
        if words[0] == "test":
            check_protocol(words, quick)
        else:
            assert main([names.get(word, word) for word in words]) == 0
        return
    if words[0] in ADAPTED:
        check_adapted(words, tmp_path, request)
        return
    attempt = (finished_run / "round_0" / "attempts.rank0.jsonl").read_text().split('"attempt_id":"')[1].split('"')[0]
    names = {"RUN": str(finished_run), "runs/quickstart": str(finished_run), "ATTEMPT_ID": attempt}
    names["runs/arc-smollm2"] = str(finished_run)
    assert words[0] in (*TRAINER_SUBCOMMANDS, "replay", "attempts")
    assert main([names.get(word, word) for word in words]) == 0


def test_class_paths_exist() -> None:
    paths = set(re.findall(r"seal_lightning\.[a-z_.]+\.[A-Z]\w+", PAGES))
    assert paths
    for path in paths:
        module, name = path.rsplit(".", 1)
        assert hasattr(import_module(module), name), path
    for path in re.findall(
        r"`(core.interfaces|core|training.hooks|callbacks|domains\.knowledge|domains\.arc)\.([A-Z]\w+)`", PAGES
    ):
        assert hasattr(import_module(f"seal_lightning.{path[0]}"), path[1]), path


def test_yaml_and_python_blocks_are_valid() -> None:
    for kind, block in BLOCKS:
        if kind == "yaml":
            assert yaml.safe_load(block)
        elif kind == "python":
            exec(compile(block, "a page", "exec"), {})


def test_named_files_exist() -> None:
    for name in set(re.findall(r"(?:configs|tests|seal_lightning)/[\w./-]+\.(?:yaml|py)", PAGES)):
        assert (ROOT / name).exists(), name


@pytest.mark.parametrize(
    "page", [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))], ids=lambda path: path.name
)
def test_links_lead_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8"))
    assert not [target for target in targets if "://" not in target and not (page.parent / target).exists()]
