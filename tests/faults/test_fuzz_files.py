"""Forged checkpoints, configurations and adapters: refused by an error of ours, at once, and nothing they hold is run.

A case is made from its number alone, so a failure names all that is needed to see it again.
"""

from __future__ import annotations

import copy
import functools
import hashlib
import io
import json
import operator
import os
import pickle
import random
import shutil
import struct
import subprocess
import time
import zipfile
from collections import Counter, OrderedDict, deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from models.test_lora import random_adapter
from test_end_to_end import config, fit

from seal_lightning.cli.commands.loading import load_run
from seal_lightning.cli.main import main
from seal_lightning.core import AdapterSpec
from seal_lightning.core.errors import SealError
from seal_lightning.models.language_model import LanguageModel
from seal_lightning.models.lora import folders, load_adapter, save_adapter
from seal_lightning.storage.checkpoint_io import AtomicCheckpointIO
from seal_lightning.storage.checkpoints import write_manifest
from seal_lightning.storage.run_dir import RunDir

CASES = 1_000
MOST_SECONDS = 1.0
MOST_KIB = 200 * 1024


@pytest.fixture
def sentinel(tmp_path: Path) -> Path:
    """A file that every payload would make."""
    return tmp_path / "SENTINEL"


@pytest.fixture(scope="module")
def run_folder(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with checkpoints and its configuration."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    assert fit(folder.parent, config(tiny_folder, folder, rounds=1)) == 0
    return folder


def peak_kib() -> int:
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:", 1)[1].split(None, 1)[0])


class Trials:
    """Counts what became of the cases, and checks what must hold for each."""

    def __init__(self, sentinel: Path) -> None:
        self.sentinel = sentinel
        self.outcomes: Counter[str] = Counter()
        self.slowest = 0.0
        self.largest = 0

    def of(self, case: object, load: Callable[[], object]) -> bool:
        """Whether the case was accepted."""
        Path("/proc/self/clear_refs").write_text("5")  # the peak is counted anew
        before = peak_kib()
        try:
            outcome, seconds = self.once(load)
            if seconds > MOST_SECONDS / 2:  # another process may have slowed it down
                seconds = min(seconds, self.once(load)[1])
            self.slowest = max(self.slowest, seconds)
            self.largest = max(self.largest, peak_kib() - before)
            assert seconds <= MOST_SECONDS
            assert peak_kib() - before <= MOST_KIB
            assert not os.path.lexists(self.sentinel), "what the file holds was run"
        except BaseException as error:
            error.add_note(f"case {case}")
            raise
        self.outcomes[outcome] += 1
        return outcome == "accepted"

    def once(self, load: Callable[[], object]) -> tuple[str, float]:
        start = time.process_time()
        try:
            load()
            outcome, said = "accepted", ""
        except SealError as error:
            outcome, said = type(error).__name__, str(error)
        seconds = time.process_time() - start
        assert len(said) < 2_500
        assert said.replace("\n", "").isprintable()
        return outcome, seconds

    def __str__(self) -> str:
        seconds, mib = f"{self.slowest:.2f} s", f"{self.largest / 1024:.0f} MiB"
        return f"{dict(self.outcomes)}; the slowest took {seconds}, the largest {mib}"


def flipped(rng: random.Random, content: bytes) -> bytes:
    """Some bytes changed, cut out, doubled, or the end cut off."""
    data = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 4, 16))):
        start = rng.randrange(len(data) + 1)
        length = rng.choice((1, 1, 2, 8, 100))
        kind = rng.randrange(6)
        if kind < 3:
            data[start : start + length] = rng.randbytes(length)
        elif kind == 3:
            del data[start : start + length]
        elif kind == 4:
            data[start:start] = data[start : start + length]
        else:
            del data[len(data) - rng.choice((1, 8, 100, len(data) // 2)) :]
    return bytes(data)


# --- checkpoints -------------------------------------------------------------------------------------------------------


class Call:
    """Pickles as a call; a function may be the result of another."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return self.function, self.arguments

    def __call__(self) -> None: ...


def payloads(sentinel: Path) -> list[Call]:
    """Each makes the file when it is unpickled by Python."""
    shell, code = f"touch {sentinel}", f"open({str(sentinel)!r}, 'w').close()"
    command = Call(os.system, shell)
    system = Call(getattr, Call(__import__, "os"), "system")
    return [
        command,
        Call(open, str(sentinel), "w"),
        Call(exec, code),
        Call(eval, code),
        Call(Path.touch, sentinel),
        Call(os.mkdir, str(sentinel)),
        Call(os.symlink, "/", str(sentinel)),
        Call(subprocess.call, ["touch", str(sentinel)]),
        Call(shutil.copy, "/dev/null", str(sentinel)),
        Call(system, shell),
        Call(functools.partial(os.system, shell)),
        Call(functools.reduce, os.symlink, ["/", str(sentinel)]),
        Call(Call(operator.attrgetter("touch"), sentinel)),
        Call(operator.call, os.system, shell),
        Call(operator.methodcaller("touch"), sentinel),
        Call(Counter, Call(map, os.system, [shell])),
        Call(OrderedDict, Call(zip, Call(map, os.system, [shell]), [1])),
        Call(deque, Call(filter, os.system, [shell])),
        Call(pickle.loads, pickle.dumps(command)),
        Call(torch._tensor._rebuild_from_type_v2, os.system, torch.Tensor, (shell,), {}),
        Call(torch.nn.Parameter, Call(os.system, shell)),
    ]


def zipped(content: bytes, entries: dict[str, bytes]) -> bytes:
    """An archive as torch makes it, around a pickle."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, value in {"data.pkl": content, "byteorder": b"little", "version": b"3\n", **entries}.items():
            archive.writestr(f"archive/{name}", value)
    return file.getvalue()


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def number(value: int) -> bytes:
    data = pickle.encode_long(value)
    return b"\x8a" + bytes([len(data)]) + data


def storage(numel: int, kind: str = "Float") -> bytes:
    return (
        b"(" + text("storage") + f"ctorch\n{kind}Storage\n".encode() + text("0") + text("cpu") + number(numel) + b"tQ"
    )


def tensor(numel: int, stride: int, offset: int = 0) -> bytes:
    """A tensor of so many floats on a storage of 16."""
    shape = number(offset) + number(numel) + b"\x85" + number(stride) + b"\x85"
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage(16) + shape + b"\x89ccollections\nOrderedDict\n)RtR"


GLOBALS = [
    *(
        "collections OrderedDict",
        "collections Counter",
        "torch Size",
        "torch device",
        "torch Tensor",
        "torch FloatStorage",
    ),
    *("torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_parameter", "torch.nn.parameter Parameter"),
    *(
        "torch._tensor _rebuild_from_type_v2",
        "torch._utils _rebuild_wrapper_subclass",
        "torch.serialization _get_layout",
    ),
    *("torch.storage UntypedStorage", "torch._utils _rebuild_sparse_tensor", "torch.float32", "torch float32"),
    *("_codecs encode", "builtins bytearray", "builtins set", "__builtin__ set", "builtins eval", "builtins getattr"),
    *(
        "os system",
        "posix system",
        "nt system",
        "subprocess Popen",
        "functools partial",
        "operator attrgetter",
        "sys exit",
    ),
    *("torch.distributed.device_mesh DeviceMesh", "torch.hub load", "torch load", "torch.jit load", "\x00 \x00", "os"),
]
"""What torch knows, what it refuses, and what is nothing."""


def snippets(sentinel: Path) -> list[bytes]:
    """Pieces of pickles, to be put together at random."""
    named = [f"c{name.replace(' ', chr(10))}\n".encode() for name in GLOBALS]
    texts = [text(value) for value in ("state_dict", "storage", "0", "cpu", "hex", f"touch {sentinel}")]
    numbers = [number(value) for value in (0, 1, -1, 16, 2**31, 2**40, 2**62, -(2**70))]
    claims = [
        storage(16),
        storage(2**40),
        storage(-1),
        tensor(16, 1),
        tensor(2**40, 0),
        tensor(2**33, 1),
        tensor(4, 1, -9),
    ]
    plain = [*(b"N", b"]", b"}", b")", b"\x88", b"\x8f"), *(b"K\x07", b"G" + struct.pack(">d", float("nan")))]
    steps = [*(b"(", b"t", b"\x85", b"\x86", b"\x87", b"R", b"R", b"\x81", b"b", b"a", b"e", b"s", b"u", b"Q")]
    memo = [b"q\x00", b"h\x00", b"r\x00\x00\x01\x00", b"j\x00\x00\x01\x00"]
    strange = [b"\x93", b"i__main__\nX\n", b"P0\n", b"\x82\x01", b"0", b"2", b"\x97", b"\xff"]
    return [*named, *texts, *numbers, *claims, *plain * 2, *steps * 3, *memo * 2, *strange]


class Forger:
    """Makes a checkpoint that is none from a real one."""

    def __init__(self, real: bytes, sentinel: Path) -> None:
        self.real = real
        with zipfile.ZipFile(io.BytesIO(real)) as archive:
            self.entries = {name.split("/", 1)[1]: archive.read(name) for name in archive.namelist()}
        self.pickle = self.entries.pop("data.pkl")
        self.values = torch.load(io.BytesIO(real), weights_only=True)
        self.payloads = payloads(sentinel)
        self.snippets = snippets(sentinel)

    def __call__(self, case: int) -> bytes:
        rng = random.Random(case)
        return rng.choice((self.damaged, self.repickled, self.program, self.malicious))(rng)

    def damaged(self, rng: random.Random) -> bytes:
        return flipped(rng, self.real)

    def repickled(self, rng: random.Random) -> bytes:
        """The archive is whole, its pickle is not; or a tensor's bytes are others, which is harmless."""
        if rng.random() < 0.3:
            name = rng.choice([name for name in self.entries if name.startswith("data/")])
            return zipped(self.pickle, self.entries | {name: rng.randbytes(len(self.entries[name]))})
        return zipped(flipped(rng, self.pickle), self.entries)

    def program(self, rng: random.Random) -> bytes:
        pieces = b"".join(rng.choices(self.snippets, k=rng.choice((2, 5, 12, 40))))
        if rng.random() < 0.5:
            at = rng.randrange(2, len(self.pickle))
            return zipped(self.pickle[:at] + pieces + self.pickle[at:], self.entries)
        return zipped(b"\x80\x02" + pieces + b".", {"data/0": bytes(64)})

    def malicious(self, rng: random.Random) -> bytes:
        payload = rng.choice(self.payloads)
        value = rng.choice((payload, {**self.values, "seal": payload}, {**self.values, payload: 0}, [payload]))
        kind = rng.randrange(4)
        if kind == 0:
            return pickle.dumps(payload, rng.randrange(6))
        if kind == 1:
            return zipped(pickle.dumps(payload, rng.randrange(6)) + self.pickle, self.entries)
        file = io.BytesIO()
        torch.save(value, file, _use_new_zipfile_serialization=kind == 2)
        return file.getvalue() if rng.random() < 0.8 else flipped(rng, file.getvalue())


def store(path: Path, content: bytes) -> None:
    """A checkpoint with the manifest of one that was written to its end."""
    path.unlink(missing_ok=True)
    write_manifest(path, len(content), hashlib.sha256(content).hexdigest())
    path.write_bytes(content)


def test_payloads_work_when_unpickled(sentinel: Path) -> None:
    """Otherwise the test below would pass on nothing."""
    for payload in payloads(sentinel)[:-2]:
        pickle.loads(pickle.dumps(payload, 2))
        assert os.path.lexists(sentinel), payload.function
        sentinel.rmdir() if sentinel.is_dir() and not sentinel.is_symlink() else sentinel.unlink()


def test_checkpoint_io_loads_all_plain_values(tmp_path: Path) -> None:
    kinds = (
        torch.float16,
        torch.bfloat16,
        torch.float32,
        torch.float64,
        torch.float8_e4m3fn,
        torch.complex64,
        torch.bool,
    )
    kinds += (torch.int8, torch.int16, torch.int32, torch.int64, torch.uint8, torch.uint16, torch.uint32, torch.uint64)
    values = {
        **{str(kind): torch.ones(3).to(kind) for kind in kinds},
        "parameter": torch.nn.Parameter(torch.zeros(2, 3).T),
        "empty": torch.zeros(0),
        "view": torch.arange(10)[2:4],
        "plain": OrderedDict(a=[1, 2.5, None, True, "x", (1j, {3}, 2**70)], b=Counter("aab"), c=torch.Size([1])),
        "of torch": [torch.float32, torch.device("cpu")],
    }
    AtomicCheckpointIO().save_checkpoint({"callbacks": values}, tmp_path / "a.ckpt")
    again = AtomicCheckpointIO().load_checkpoint(tmp_path / "a.ckpt")["callbacks"]
    assert again.keys() == values.keys()
    for name, value in values.items():
        if isinstance(value, torch.Tensor):
            assert again[name].dtype is value.dtype
            assert torch.equal(*(t.detach().contiguous().view(torch.uint8) for t in (again[name], value))), name
        else:
            assert again[name] == value


@pytest.mark.slow
def test_forged_checkpoints_run_no_code(
    counted: Callable[[int], int], run_folder: Path, sentinel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forge = Forger((run_folder / "checkpoints" / "round0-e_step.ckpt").read_bytes(), sentinel)
    trials, path = Trials(sentinel), tmp_path / "forged.ckpt"
    for case in range(counted(CASES)):
        monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", str(case % 2))
        store(path, forge(case))
        weights_only = False if case % 3 else None
        trials.of(case, functools.partial(AtomicCheckpointIO().load_checkpoint, path, weights_only=weights_only))
    print(f"\ncheckpoints: {trials}")
    assert trials.outcomes.keys() == {"accepted", "RunError"}
    assert trials.outcomes["accepted"] >= 0.05 * counted(CASES)
    assert trials.outcomes["RunError"] >= 0.5 * counted(CASES)


# --- configurations ----------------------------------------------------------------------------------------------------

NO_CLASSES = [
    "os.system",
    "subprocess.Popen",
    "builtins.eval",
    "builtins.open",
    "fakes.ToyDomain",
    "shutil.rmtree",
    "no.such",
]
SEAMS = ["data.train", "data.test", "model.domain", "model.reward", "model.grader", "model.inner_loop", "model.engine"]


def hostile_values(sentinel: Path) -> list[str]:
    """As YAML, to be put in a value's place."""
    code = f"open({str(sentinel)!r}, 'w')"
    return [
        f"!!python/object/apply:os.system ['touch {sentinel}']",
        f"!!python/object/new:os.system ['touch {sentinel}']",
        f"!!python/object/apply:subprocess.Popen [[touch, {sentinel}]]",
        f'!!python/object/apply:eval ["{code}"]',
        f"!!python/object/new:tuple [!!python/object/new:map [!!python/name:eval , ['{code.replace(chr(39), chr(34))}']]]",
        *("!!python/name:os.system", "!!python/module:os", "!!python/tuple [1]", "!!python/object:object {}", "!no {}"),
        *(
            ".nan",
            ".inf",
            "-.inf",
            "-1",
            "0",
            "1e308",
            "1.5",
            "true",
            "~",
            "''",
            "[]",
            "{}",
            "a: b: c",
            "[a",
            '"',
            "? x",
        ),
        *("2001-99-99", "!!binary '%%%'", "!!set {a, b}", "!!omap [a: 1]", "? [a, b]\n: 1", '"\\ud800"', "'\x1b[31m'"),
        *(str(sentinel), "/etc/passwd", "../../etc/passwd", "https://hub/x", "${oc.env:HOME}", "{{ 7 * 7 }}", "%(x)s"),
    ]


def leaves(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The places of all values, also of those that hold others."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return ([at] if at else []) + [place for key, item in items for place in leaves(item, (*at, key))]


dumped = functools.partial(yaml.dump, Dumper=getattr(yaml, "CSafeDumper", yaml.SafeDumper))


class ConfigForger:
    """Makes a configuration that is none, or another one, from a run's."""

    def __init__(self, real: str, sentinel: Path) -> None:
        self.real = yaml.safe_load(real)
        self.places = [place for place in leaves(self.real) if place[0] in ("model", "data")]
        self.hostile = hostile_values(sentinel)
        self.command = {
            "args": ["touch", str(sentinel)],
            "command": f"touch {sentinel}",
            "source": f"open({sentinel!r}, 'w')",
        }

    def __call__(self, case: int) -> bytes:
        rng = random.Random(case)
        settings, kind = copy.deepcopy(self.real), rng.randrange(8)
        if kind == 0:
            return flipped(rng, dumped(settings).encode())
        if kind == 1:
            path = rng.choice(NO_CLASSES)
            init_args = {key: value for key, value in self.command.items() if rng.random() < 0.5}
            self.put(settings, rng.choice(SEAMS).split("."), {"class_path": path, "init_args": init_args})
            return dumped(settings).encode()
        if kind == 2:  # harmless: the same said otherwise, or other numbers
            self.put(settings, ("model", "reinforce", "learning_rate"), rng.random() + 1e-6)
            self.put(settings, ("model", "seed"), rng.randrange(2**31))
            return yaml.safe_dump(
                settings, default_flow_style=rng.random() < 0.5, sort_keys=rng.random() < 0.5
            ).encode()
        for _ in range(rng.choice((1, 1, 1, 2, 4)) if kind < 7 else 0):
            self.put(settings, rng.choice(self.places), "@@")
        content = dumped(settings, width=10**6)
        while "'@@'" in content:
            content = content.replace("'@@'", rng.choice(self.hostile), 1)
        return (content + (f"more: {rng.choice(self.hostile)}\n" if kind == 7 else "")).encode(errors="surrogatepass")

    @staticmethod
    def put(settings: Any, place: Any, value: object) -> None:
        for key in place[:-1]:
            if not isinstance(settings, dict | list):
                return
            settings = settings[key]
        if isinstance(settings, dict | list):
            settings[place[-1]] = value


@pytest.mark.slow
def test_forged_configurations_run_no_code(
    counted: Callable[[int], int], run_folder: Path, sentinel: Path, tmp_path: Path
) -> None:
    forge = ConfigForger((run_folder / "config.yaml").read_text(), sentinel)
    read, loaded = Trials(sentinel), Trials(sentinel)
    for case in range(counted(CASES)):
        (tmp_path / "config.yaml").write_bytes(forge(case))
        if read.of(case, lambda: RunDir.named(tmp_path).settings()) and case % 3 == 0:  # the parser takes its time
            loaded.of(case, lambda: load_run(RunDir.named(tmp_path)))
    print(f"\nconfigurations read: {read}\nconfigurations loaded: {loaded}")
    assert read.outcomes["RunError"] >= 0.2 * counted(CASES)
    assert loaded.outcomes["accepted"] >= 0.2 * loaded.outcomes.total()
    assert loaded.outcomes["RunError"] >= 0.2 * loaded.outcomes.total()


@pytest.mark.parametrize(
    ("place", "value"),
    [
        *((place, path) for place, path in zip(SEAMS, NO_CLASSES, strict=True)),
        *(("trainer.callbacks", path) for path in ("os.system", "subprocess.Popen", "fakes.ToyDomain")),
        *((f"trainer.{name}", "subprocess.Popen") for name in ("logger", "plugins", "strategy", "profiler")),
        *(
            ("model.rounds", f"!!python/{tag}")
            for tag in ("object/apply:os.system [SHELL]", "name:os.system", "module:os")
        ),
        *(("model.rounds", value) for value in (".nan", ".inf", "[[[[1]]]]", "!!binary '%%%'")),
    ],
)
def test_resume_of_a_forged_run_runs_no_code(
    place: str, value: str, run_folder: Path, sentinel: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    settings = yaml.safe_load((run_folder / "config.yaml").read_text())
    command = {
        "args": ["touch", str(sentinel)],
        "command": f"touch {sentinel}",
        "source": f"open({str(sentinel)!r}, 'w')",
    }
    named = {"class_path": value, "init_args": command}
    part, name = place.split(".")
    settings[part][name] = "@@" if place == "model.rounds" else [named] if name in ("callbacks", "plugins") else named
    raw = value.replace("SHELL", f"'touch {sentinel}'")
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(settings).replace("'@@'", raw))
    assert main(["fit", "--resume", str(tmp_path)]) in (1, 2)
    assert not os.path.lexists(sentinel)
    assert "seal fit: error: " in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["config.yaml"]


def test_configuration_may_name_any_class(
    run_folder: Path, sentinel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It names classes: their modules are imported, also to find that they are the wrong ones; the right ones are made."""
    (tmp_path / "of_mine.py").write_text(
        f"from pathlib import Path\nPath({str(sentinel)!r}).touch()\n"
        "from fakes import ToyTasks\nclass Mine(ToyTasks):\n    pass\nclass Other:\n    pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    settings = yaml.safe_load((run_folder / "config.yaml").read_text())
    settings["data"]["train"]["class_path"] = "of_mine.Other"
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(settings))
    with pytest.raises(SealError, match="does not correspond to a subclass of TaskSource"):
        load_run(RunDir(tmp_path))
    assert sentinel.exists()
    settings["data"]["train"]["class_path"] = "of_mine.Mine"
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(settings))
    load_run(RunDir(tmp_path))


# --- adapters ----------------------------------------------------------------------------------------------------------


class AdapterForger:
    """Makes an adapter's two files from those of a real one."""

    def __init__(self, folder: Path) -> None:
        self.config = json.loads((folder / "adapter_config.json").read_text())
        self.content = (folder / "adapter_model.safetensors").read_bytes()
        length = int.from_bytes(self.content[:8], "little")
        self.header, self.data = json.loads(self.content[8 : 8 + length]), self.content[8 + length :]

    def __call__(self, case: int) -> tuple[bytes, bytes]:
        rng = random.Random(case)
        configuration, content, kind = json.dumps(self.config).encode(), self.content, rng.randrange(9)
        if kind == 0:
            content = flipped(rng, content)
        elif kind < 4:
            content = self.assembled(self.other_header(rng), self.data, rng)
        elif kind == 4:  # harmless, mostly: other weights
            content = self.assembled(self.header, self.other_data(rng), rng)
        elif kind == 5:
            content = rng.choice((0, 1, 2**20, 2**33, 2**40, 2**63, 2**64 - 1)).to_bytes(8, "little") + content[8:]
        elif kind == 6:
            configuration = flipped(rng, configuration)
        else:
            configuration = json.dumps(self.other_config(rng)).encode()
        return configuration, content

    @staticmethod
    def assembled(header: Any, data: bytes, rng: random.Random) -> bytes:
        text = header if isinstance(header, bytes) else json.dumps(header).encode()
        text += b" " * rng.choice((0, 0, 0, 7, 1_000))
        return len(text).to_bytes(8, "little") + text + data

    def other_header(self, rng: random.Random) -> Any:
        header = copy.deepcopy(self.header)
        key = rng.choice([key for key in header if key != "__metadata__"])
        entry, far = header[key], rng.choice((-1, 0, 1, 2**31, 2**40, 2**63, 2**64, 10**30, 0.5, None, "0"))
        kind = rng.randrange(11)
        if kind == 0:
            entry["dtype"] = rng.choice(
                ("F64", "F16", "BF16", "I64", "BOOL", "F8_E4M3", "C64", "U8", "f32", "", None, "Q4")
            )
        elif kind == 1:
            entry["shape"] = rng.choice(
                ([far], [far, 2], [2**32, 2**32], [], [entry["shape"][0]], entry["shape"][::-1])
            )
        elif kind == 2:
            entry["data_offsets"] = rng.choice(([0, far], [far, 0], [far, far], [0, len(self.data)], [], [0]))
        elif kind == 3:  # over another's
            entry["data_offsets"] = rng.choice([value["data_offsets"] for name, value in header.items() if "." in name])
        elif kind == 4:
            del header[key]
        elif kind == 5:
            header[rng.choice(("extra", key.replace("layers.0", "layers.9"), "", "__metadata__", "\0"))] = entry
        elif kind == 6:
            header["__metadata__"] = rng.choice(({"format": "pt", "x": "y" * 9_999}, {"a": 1}, [], None, "x"))
        elif kind == 7:
            entry[rng.choice(("more", "dtype", "shape"))] = rng.choice(([], {}, "x", 1))
        elif kind == 8:
            return rng.choice(
                (b"[]", b"{}", b"null", b"[" * 100_000, b'{"a":' * 50_000, b'{"a": 1e999}', b"\xff{}", b"{")
            )
        elif kind == 9:  # many that are empty
            empty = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
            header |= {f"t{n}": empty for n in range(rng.choice((10, 10_000)))}
        else:
            return flipped(rng, json.dumps(header).encode())
        return header

    def other_data(self, rng: random.Random) -> bytes:
        values = torch.randn(len(self.data) // 4, generator=torch.Generator().manual_seed(rng.randrange(2**31)))
        if rng.random() < 0.3:
            values[rng.randrange(len(values))] = rng.choice((float("nan"), float("inf"), float("-inf")))
        return values.numpy().tobytes()

    def other_config(self, rng: random.Random) -> Any:
        key = rng.choice((*self.config, "r", "lora_alpha", "lora_dropout", "target_modules", "use_rslora", "a_new_one"))
        values = (
            None,
            True,
            False,
            0,
            1,
            -1,
            4096,
            2**40,
            10**400,
            0.5,
            float("nan"),
            float("inf"),
            "",
            "x",
            "a" * 9_999,
        )
        nested = functools.reduce(lambda inner, _: [inner], range(300), [])
        lists = (
            [],
            {},
            ["q_proj"],
            ["q_proj", "v_proj"],
            "q_proj",
            "all-linear",
            "(a|a)*$",
            ["(.*)*"],
            {"a": 1},
            nested,
        )
        return self.config | {key: rng.choice((*values, *lists))}


def test_forged_adapters_are_refused(
    counted: Callable[[int], int], tiny: LanguageModel, sentinel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folders, "target_modules", functools.cache(folders.target_modules))  # most ask for the same
    spec = AdapterSpec(rank=2, alpha=4.0, target_modules=("q_proj", "v_proj"))
    save_adapter(random_adapter(tiny.model, spec), tmp_path / "real", base_model="somewhere")
    forge, folder, trials = AdapterForger(tmp_path / "real"), tmp_path / "forged", Trials(sentinel)
    folder.mkdir()
    (folder / "adapter_model.bin").write_bytes(pickle.dumps(Call(open, str(sentinel), "w")))
    for case in range(counted(CASES)):
        configuration, content = forge(case)
        (folder / "adapter_config.json").write_bytes(configuration)
        weights = folder / "adapter_model.safetensors"
        weights.unlink(missing_ok=True)
        if case % 50:
            weights.write_bytes(content)
        trials.of(case, lambda: load_adapter(tiny.model, folder))
    print(f"\nadapters: {trials}")
    assert trials.outcomes.keys() <= {"accepted", "ModelError", "ConfigError"}
    assert trials.outcomes["accepted"] >= 0.1 * counted(CASES)
    assert trials.outcomes["ModelError"] >= 0.4 * counted(CASES)
