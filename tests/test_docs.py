"""README and pages: their code runs against the embedded server, and their figures are those of the results."""

from __future__ import annotations

import builtins
import io
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import fsspec
import lightning
import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import ai4os_data
import ai4os_data.lightning
from ai4os_data import errors
from ai4os_data.cli.main import main
from ai4os_data.fsspec.filesystem import StorageFileSystem
from tests.support import folder_trainer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.shares import Share

ROOT = Path(__file__).resolve().parents[1]
PATHS = "docs/how-to/path-training.md"
FLOWERS, STATIONS, GRID = (f"ai4os-storage/datasets/{name}" for name in ("flowers/train", "stations", "grid.zarr"))
PAGES = ["README.md", *sorted(str(path.relative_to(ROOT)) for path in ROOT.glob("docs/**/*.md"))]
_BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_INCLUDED = re.compile(r'^--8<-- "(.*)"$', re.MULTILINE)
_GET = re.compile(r"^ai4os-data get .*$", re.MULTILINE)
_COMMAND = re.compile(r"(?:^|`)ai4os-data (\w+)", re.MULTILINE)


class Classifier(lightning.LightningModule):
    """The model that the pages leave to the reader, with Lightning and without."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 2)

    def training_step(self, batch: tuple[torch.Tensor, torch.Tensor], _: int) -> torch.Tensor:
        """Classify by the mean colour."""
        images, labels = batch
        loss = nn.functional.cross_entropy(self.layer(images.mean((2, 3))), labels)
        self.log("val_loss", loss)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Use SGD."""
        return torch.optim.SGD(self.parameters(), lr=0.1)


def names() -> dict[str, Any]:
    """The names that the pages leave to the reader: a model, and what trains it."""
    model = Classifier()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    return {
        "__name__": "page",
        "model": model,
        "optimizer": optimizer,
        "loader": torch.utils.data.DataLoader(
            torch.utils.data.TensorDataset(torch.rand(2, 3, 8, 8), torch.tensor([0, 1]))
        ),
        "scheduler": torch.optim.lr_scheduler.StepLR(optimizer, 1),
        "steps": 3,
        "epochs": 2,
        "train_one": lambda *_: 0.5,
        "to_tensor": lambda image: torch.from_numpy(np.array(image)).permute(2, 0, 1) / 255,
    }


@pytest.fixture
def linked(share: Share, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Share]:
    """A deployment with a linked storage that has the pages' pictures."""
    environ = share.environ()
    environ["RCLONE_CONFIG_RSHARE_URL"] = share.location
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AI4OS_DATA_SPOOL", str(tmp_path / "spool"))
    fsspec.register_implementation("ai4os", StorageFileSystem, clobber=True)
    StorageFileSystem.clear_instance_cache()
    random = np.random.default_rng(0)
    for number in range(16):
        picture = io.BytesIO()
        Image.fromarray(random.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(picture, "JPEG")
        share.put({f"{FLOWERS}/{'ab'[number % 2]}/{number}.jpg": picture.getvalue()})
    yield share
    StorageFileSystem.clear_instance_cache()


def code(page: str) -> list[str]:
    """The blocks of a page that are run."""
    return _BLOCK.findall((ROOT / page).read_text(encoding="utf-8"))


@pytest.mark.parametrize("page", [page for page in PAGES if code(page) and page != PATHS])
@pytest.mark.usefixtures("linked")
# The pages are written for a machine with four cores; this one may have two.
@pytest.mark.filterwarnings("ignore:This DataLoader will create 4 worker processes:UserWarning")
@pytest.mark.filterwarnings("ignore:::lightning")  # about workers, and about packages that are missing or old
def test_code_of_the_page_runs(page: str) -> None:
    """The blocks of a page run one after the other, as somebody would type them."""
    run(page, names())


def run(page: str, there: dict[str, Any]) -> None:
    """Run the blocks of a page, one after the other, with some names."""
    for block in code(page):
        exec(compile(block, page, "exec"), there)  # noqa: S102  running them is the test


@pytest.mark.parametrize("page", ["README.md", PATHS])
def test_command_of_the_page_copies(linked: Share, page: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The command that stands beside the line of Python fills the same directory."""
    (line,) = _GET.findall((ROOT / page).read_text(encoding="utf-8"))
    assert main(shlex.split(line, comments=True)[1:]) == 0
    directory = Path(capsys.readouterr().out.strip())
    assert directory.name in {"data", "flowers"}
    for number in range(16):
        name = f"{'ab'[number % 2]}/{number}.jpg"
        assert (directory / "train" / name).read_bytes() == (linked.root / FLOWERS / name).read_bytes()


def test_trainings_of_the_page_on_paths_run(linked: Share, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each framework is the real one, but for Ultralytics: a stand-in treats the directory in the same way."""
    monkeypatch.setenv("KERAS_BACKEND", "torch")
    for library in ("cv2", "datasets", "h5py", "keras", "sklearn", "zarr"):
        pytest.importorskip(library, reason=f"{library} is not installed")
    import h5py
    import zarr

    monkeypatch.setitem(sys.modules, "ultralytics", folder_trainer)
    birds = "ai4os-storage/datasets/birds"
    linked.put({f"{birds}/data.yaml": "train: images\nnames: [bird]\n", f"{birds}/labels/0.txt": "0 0.5 0.5 1 1\n"})
    linked.put({f"{birds}/images/0.jpg": (linked.root / FLOWERS / "a" / "0.jpg").read_bytes()})
    (linked.root / STATIONS).mkdir()
    with h5py.File(linked.root / STATIONS / "2026.h5", "w") as file:
        file["celsius"] = np.arange(20.0)
    zarr.create_array(linked.root / GRID, data=np.arange(64.0).reshape(8, 8), chunks=(4, 4))
    there = names()
    run(PATHS, there)
    assert list(there["celsius"]) == list(range(10))
    assert there["grid"].shape == (8, 8)
    assert there["image"].shape == (8, 8, 3)
    assert there["train"](epochs=1) == {"classes": ["a", "b"]}
    assert sorted(path.name for path in Path("data/birds/images").iterdir()) == ["0.jpg"]


def test_quickstart_runs_as_a_file_on_class_folders_of_any_number(linked: Share, tmp_path: Path) -> None:
    """Its blocks, copied into one file, run on three classes of pictures of different sizes."""
    for number, side in enumerate((5, 31, 200)):
        picture = io.BytesIO()
        Image.new("RGB", (side, 2 * side)).save(picture, "JPEG")
        linked.put({f"ai4os-storage/datasets/flowers/train/c/{number}.jpg": picture.getvalue()})
    script = tmp_path / "quickstart.py"
    blocks = _BLOCK.findall((ROOT / "docs" / "quickstart.md").read_text())
    script.write_text("\n".join(blocks))
    ended = subprocess.run([sys.executable, script], check=False, capture_output=True, text=True, cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert "Traceback" not in ended.stderr
    said = ended.stdout.splitlines()
    assert said[0] == "['a', 'b', 'c']"
    assert said[1:] == ["torch.Size([8, 3, 64, 64]) torch.Size([8])"] * 2 + [
        "torch.Size([3, 3, 64, 64]) torch.Size([3])"
    ]
    assert linked.server.root.joinpath(linked.name, "runs", "flowers").is_dir()


def test_reference_has_every_public_name() -> None:
    """The reference lists each public name, and each error that may be caught."""
    page = (ROOT / "docs" / "api.md").read_text()
    listed = set(re.findall(r"^::: ai4os_data\.[\w.]*?(\w+)$", page, re.MULTILINE))
    errors_ = {name for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, Exception)}
    handed_out = {"SaveHandle", "Restored", "Checkpoint", "PreemptionGuard"}
    assert listed >= {*ai4os_data.__all__, *ai4os_data.lightning.__all__, *errors_, *handed_out}


@pytest.mark.parametrize("page", PAGES)
def test_what_a_page_names_is_there(page: str) -> None:
    """The files that a page includes exist, and so do the commands that it shows."""
    text = (ROOT / page).read_text()
    for path in _INCLUDED.findall(text):
        assert (ROOT / path).is_file(), path
    for command in _COMMAND.findall(text):
        with pytest.raises(SystemExit) as ended:
            main([command, "--help"])
        assert ended.value.code == 0, command


def test_decisions_are_dated_and_listed() -> None:
    """Each note has the date of its name, and a line in the index, which says if the note no longer holds."""
    folder = ROOT / "docs" / "decisions"
    index = (folder / "README.md").read_text(encoding="utf-8")
    listed = re.findall(r"^- \[.*\]\((\S+\.md)\)(.*)$", index, re.MULTILINE)
    lines = dict(listed)
    assert len(lines) == len(listed)
    notes = {path.name: path.read_text(encoding="utf-8") for path in folder.glob("2*.md")}
    assert lines.keys() == notes.keys()
    for name, text in notes.items():
        dated = text.splitlines()[2]
        assert dated.startswith(name[:10]), name
        assert ("superseded" in dated.lower()) == ("superseded" in lines[name]), name


def test_troubleshooting_has_every_error() -> None:
    """Each has what to do, and what it can be caught as."""
    page = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    kinds = {
        name: kind for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, Exception)
    }
    kinds.pop("StorageError")
    rows = dict(re.findall(r"^\| `(\w+)` \| (.*?) \| .{30,} \|$", page, re.MULTILINE))
    assert rows.keys() == kinds.keys()
    for name, caught_as in rows.items():
        assert caught_as
        for other in re.findall(r"`(\w+Error)`", caught_as):
            assert issubclass(kinds[name], getattr(errors, other, None) or getattr(builtins, other)), (name, other)


def results() -> dict[str, Any]:
    """The committed results of the benchmarks, by benchmark."""
    return {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in ROOT.glob("benchmarks/results/*.json")}


def ratios() -> dict[str, float]:
    """Each ratio of the results."""
    return {name: ratio for found in results().values() for name, ratio in found["ratios"].items()}


@pytest.mark.parametrize("page", ["README.md", "docs/performance.md"])
def test_figures_of_the_page_are_those_of_the_results(page: str) -> None:
    """Nothing is claimed that no benchmark in the repository shows, and each ratio says which way is good."""
    text = (ROOT / page).read_text(encoding="utf-8")
    row = re.compile(r"^\| (?!measured).* \| .* \| (.*) \| (higher|lower) \| `(.*)` \|$", re.MULTILINE)
    claimed = [(name, figure) for figure, _, name in row.findall(text)]
    assert len(claimed) > 5
    assert claimed == [(name, f"{ratios()[name]:.2f}") for name, _ in claimed]
    better = {name: way for _, way, name in row.findall(text)}
    for found in results().values():
        for name, bar in found["bars"].items():
            if name in better:
                assert better[name] == ("lower" if bar["bar"].startswith("<=") else "higher"), name
    for folder, shown in re.findall(r"\(((?:\w+/)*)(\S+\.(?:png|svg))\)", text):
        assert ((ROOT / page).parent / folder / shown).exists()


def test_performance_page_has_every_ratio_and_table_of_the_results() -> None:
    """Every measured ratio is shown, good or bad."""
    text = (ROOT / "docs" / "performance.md").read_text(encoding="utf-8")
    for name, ratio in ratios().items():
        absolute = {
            "reopen_s": f"{ratio:.2f} s",
            "index_bytes_per_key": f"{ratio:.0f} bytes a file",
            "worker_copy_mb": f"copies {ratio:.1f} MB",
        }
        assert absolute.get(name, f"| {ratio:.2f} |") in text, name
        assert name in absolute or f"`{name}`" in text, name
    for benchmark in ("peers", "checkpoints"):
        for row in results()[benchmark]["tables"][0][1:]:
            assert f"| {' | '.join(row)} |" in text


def test_losses_stand_in_the_readme() -> None:
    """Ratios that miss their bar, and those that cost about twice as much, are not left out."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    missed = {name for found in results().values() for name, bar in found["bars"].items() if not bar["holds"]}
    for name in missed | {"step_slowdown", "read_back_vs_curl", "fill_vs_plain"}:
        assert f"`{name}`" in readme, name


@pytest.mark.parametrize("page", ["README.md", "docs/index.md", "docs/performance.md"])
def test_chart_is_described_with_the_figures_of_the_results(page: str) -> None:
    """A reader who cannot see the chart gets its figures."""
    cold = {name: float(cold) for name, cold, *_ in results()["peers"]["tables"][0][1:]}
    ours = cold.pop("ours")
    others = [cold[name] for name in cold if not name.startswith("plain local files")]
    said = f"ai4os-data {ours:.2f} in the first epoch, everything else {min(others):.0f} to {max(others):.0f}]"
    assert said in (ROOT / page).read_text(encoding="utf-8")


def test_readme_is_short_and_shows_code_before_any_table() -> None:
    """It has 120 lines at most, and its three code blocks come before the first table."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 120
    first_table = re.search(r"^\|", text, re.MULTILINE)
    assert first_table
    assert len(_BLOCK.findall(text[: first_table.start()])) == 3


@pytest.mark.parametrize("page", [page for page in PAGES if not page.startswith("docs/decisions/")])
def test_code_fits_its_box(page: str) -> None:
    """Lines of code are short enough for the usual width of a page."""
    text = (ROOT / page).read_text(encoding="utf-8")
    for path in _INCLUDED.findall(text):
        text += f"\n```\n{(ROOT / path).read_text(encoding='utf-8')}\n```\n"
    for block in re.findall(r"^```.*?\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        assert [line for line in block.splitlines() if len(line) > 88] == []
