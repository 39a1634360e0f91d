"""The benchmarks run, measure what they say, and report it in the agreed form. Their figures are not judged here."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from matplotlib.text import Text

from ai4os_data import Remote
from ai4os_data.stores import Store, open_store
from tests.support.outcomes import content
from tests.support.servers import missing_fuse

sys.path.append(str(Path(__file__).resolve().parents[1]))  # the benchmarks are not installed

from benchmarks import bare_curl, chart, corpus, gpu, gpu_training
from benchmarks.command import Options
from benchmarks.report import Report, at_least, at_most
from benchmarks.static_server import StaticServer

if TYPE_CHECKING:
    from tests.support.servers import RcloneMount
    from tests.support.shares import Share

ROOT = Path(__file__).resolve().parents[1]
RATIOS = {
    "reads": {
        "warm_vs_local",
        "warm_vs_local_2",
        "warm_loader_vs_local",
        "bound_by_cost",
        "cold_vs_limit",
        "cold_vs_mount",
        "archive_vs_single",
        "archive_vs_curl",
        "loader_vs_warm",
        "cpu_per_get_vs_curl",
    },
    "listing": {"list_vs_propfind", "reopen_s", "worker_copy_mb", "index_bytes_per_key"},
    "fill": {"fill_vs_plain"},
    "epochs": {
        "bytes_vs_bound_0.1",
        "bytes_vs_bound_0.25",
        "bytes_vs_bound_0.5",
        "bytes_vs_bound_0.75",
        "stall_share",
        "cold_epoch_vs_network",
        "warm_cpu",
        "two_ranks_bytes",
    },
    "transfers": {"upload_vs_curl", "read_back_vs_curl", "chunked_vs_curl", "restore_vs_curl"},
    "checkpoints": {
        "stall_vs_copy",
        "rss_growth",
        "step_slowdown",
        "upload_vs_curl",
        "read_back_vs_curl",
        "chunked_vs_curl",
        "restore_vs_curl",
    },
    "folders": {
        "copy_vs_rclone",
        "copy_vs_rclone_parallel",
        "copy_vs_rclone_dav",
        "copy_vs_limit",
        "large_vs_curl",
        "second_copy_s",
        "copy_rss_mb",
        "shrink_gain",
        "shrink_disk",
        "shrink_rate",
    },
    "shrinking": {"shrink_gain", "shrink_disk", "shrink_rate"},
    "peers": {"cold_vs_best_peer", "warm_vs_best_peer"},
    "gpu": {"loader_vs_plain", "stall_vs_copy_1gib", "stall_vs_copy_4gib"},
}


def run(*arguments: str, path: tuple[Path, ...] = ()) -> subprocess.CompletedProcess[str]:
    """Run Python, from the root of the repository, with nothing that pytest has made importable."""
    ours = {"", str(ROOT)}
    inherited = [folder for folder in sys.path if folder not in ours]
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join([*map(str, path), *inherited])}
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, check=False)


def report_of(path: Path) -> dict[str, Any]:
    """What a benchmark wrote."""
    report: dict[str, Any] = json.loads(path.read_text())
    return report


@pytest.mark.parametrize("name", RATIOS)
def test_benchmark_reports_environment_cases_and_ratios(name: str, tmp_path: Path) -> None:
    """Each benchmark writes one JSON of the agreed form, with every ratio of its table, and a PNG beside it."""
    done = run("-m", f"benchmarks.{name}", "--tiny", "--json", str(tmp_path / "report.json"))
    assert done.returncode == 0, done.stderr
    report = report_of(tmp_path / "report.json")
    expected = RATIOS[name] - ({"cold_vs_mount"} if missing_fuse() else set())
    assert set(report["ratios"]) == expected
    assert all(math.isfinite(ratio) and ratio > 0 for ratio in report["ratios"].values())
    assert "pycurl" in report["environment"]["line"]
    assert report["cases"]
    for case in report["cases"]:
        assert case["min"] <= case["median"] <= case["max"]
    for name_ in expected:
        assert name_ in done.stdout
    assert (tmp_path / "report.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("name", ["peers", "reads", "checkpoints"])
def test_chart_is_linear_from_zero_and_names_no_ratio(name: str) -> None:
    """A reader in a hurry compares lengths, and needs no term of ours."""
    report = report_of(ROOT / "benchmarks" / "results" / f"{name}.json")
    figure = chart.figure_of(report)
    for axis in figure.axes:
        assert axis.get_xscale() == "linear"
        assert axis.get_xlim()[0] == 0
    words = " ".join(text.get_text() for text in figure.findobj(Text))
    assert [ratio for ratio in report["ratios"] if ratio in words] == []
    assert "is better" in words


def test_chart_of_peers_has_one_axis_and_marks_ours() -> None:
    """Ours is the first row, in its own colour."""
    figure = chart.figure_of(report_of(ROOT / "benchmarks" / "results" / "peers.json"))
    (axis,) = figure.axes
    ours, *others = axis.get_yticklabels()
    assert ours.get_text() == "ai4os-data"
    assert ours.get_color() not in {other.get_color() for other in others}


@pytest.mark.skipif(torch.cuda.is_available(), reason="it measures where there is a card")
def test_benchmark_of_a_card_says_that_there_is_none() -> None:
    """Without a card nothing is measured, and the exit code tells."""
    done = run("-m", "benchmarks.gpu")
    assert done.returncode == 1
    assert "no CUDA device" in done.stderr
    assert not done.stdout


def test_benchmark_of_a_card_fails_if_what_was_saved_is_not_what_stood_there(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """One bit of one tensor ends the proof with an error that names the tensor."""
    expected = gpu_training.Training.expected

    def flipped(training: gpu_training.Training) -> dict[str, torch.Tensor]:
        found = expected(training)
        found["/ballast"].view(torch.uint8)[17] ^= 1
        return found

    monkeypatch.setattr(gpu_training.Training, "expected", flipped)
    options = Options(quick=True, tiny=True, directory=tmp_path)
    with pytest.raises(gpu.ProofError, match="ballast"):
        gpu.prove_saves(Report("gpu", {}, {}), options, "cpu")


def test_benchmark_runs_as_a_script_too(tmp_path: Path) -> None:
    """``python benchmarks/listing.py`` is the same as ``python -m benchmarks.listing``."""
    done = run("benchmarks/listing.py", "--tiny", "--only", "list", "--no-chart", "--json", str(tmp_path / "r.json"))
    assert done.returncode == 0, done.stderr
    assert set(report_of(tmp_path / "r.json")["ratios"]) == {"list_vs_propfind"}
    assert [path.name for path in tmp_path.iterdir()] == ["r.json"]


@pytest.mark.parametrize(("flags", "code"), [((), 0), (("--chart",), 1)])
def test_missing_matplotlib_is_told_and_fails_only_where_a_chart_was_asked_for(
    flags: tuple[str, ...], code: int, tmp_path: Path
) -> None:
    """Without matplotlib the report is written all the same, and the message names the extra to install."""
    (tmp_path / "matplotlib.py").write_text("raise ImportError('it is not installed')")
    arguments = ("-m", "benchmarks.listing", "--tiny", "--only", "list", "--json", str(tmp_path / "r.json"), *flags)
    done = run(*arguments, path=(tmp_path,))
    assert "pip install 'ai4os-data[bench]'" in done.stderr
    assert done.returncode == code
    assert report_of(tmp_path / "r.json")["ratios"]


def test_a_ratio_is_the_median_of_its_rounds() -> None:
    """What disturbs one round disturbs both of its cases, so that rounds are divided before the median is taken."""
    report = Report("some", {"a_vs_b": at_most(2), "b_vs_a": at_least(0.6)}, {})
    for a, b in ((2.0, 1.0), (30.0, 20.0), (9.0, 3.0)):
        report.add("a", a, "s")
        report.add("b", b, "s")
    report.ratio("a_vs_b", "a", "b")
    report.ratio("b_vs_a", "b", "a")
    assert report.ratios == {"a_vs_b": 2.0, "b_vs_a": 0.5}
    bars = report.as_json()["bars"]
    assert bars == {
        "a_vs_b": {"bar": "<= 2", "holds": True, "min": 1.5, "max": 3.0, "rounds": 3},
        "b_vs_a": {"bar": ">= 0.6", "holds": False, "min": pytest.approx(1 / 3), "max": 2 / 3, "rounds": 3},
    }


def nested(folder: Path) -> dict[str, bytes]:
    """Some files in folders."""
    files = {"a.bin": b"a" * 300_000, "x y/b#1.bin": b"b", "x y/z/ü.bin": b""}
    for key, data in files.items():
        path = folder / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return files


def store_at(server: StaticServer) -> Store:
    """Our store over the server of the benchmarks."""
    return open_store(server.url, Remote(server.url, "alice", "unasked"))


def test_static_server_serves_a_folder_as_webdav(tmp_path: Path) -> None:
    """Listing, whole files and ranges are those of the folder, with strong ETags."""
    files = nested(tmp_path)
    with StaticServer(tmp_path) as server:
        store = store_at(server)
        entries = store.list()
        assert {entry.key: entry.size_bytes for entry in entries} == {key: len(data) for key, data in files.items()}
        assert all(entry.etag for entry in entries)
        read = {entry.key: content(outcome) for entry, outcome in store.read_many(entries)}
        assert read == files
        whole = next(entry for entry in entries if entry.key == "a.bin")
        assert store.read_range(whole, 299_990, 400_000) == b"a" * 10


def test_static_server_is_far_away_but_not_slow(tmp_path: Path) -> None:
    """An answer takes a round trip (two with a new connection), however many are on their way."""
    paths = corpus.make(tmp_path, 160, 1000)
    with StaticServer(tmp_path, rtt_s=0.1) as server:
        urls = [f"{server.url}{path.name}" for path in paths]
        begun = time.perf_counter()
        bare_curl.throw_away(urls, 32)
        # Five rounds of 32, and one round trip to connect: 0.6 s; one after the other would take 16 s.
        assert 0.59 < time.perf_counter() - begun < 2


def test_bare_curl_writes_what_is_served(tmp_path: Path) -> None:
    """The baseline does the whole work: its files are those that the server has."""
    paths = corpus.make(tmp_path / "files", 40, 200_000)
    (tmp_path / "fetched").mkdir()
    with StaticServer(tmp_path / "files") as server:
        bare_curl.write_files([f"{server.url}{path.name}" for path in paths], tmp_path / "fetched", 8)
    assert [(tmp_path / "fetched" / f"{number}").read_bytes() for number in range(40)] == [
        path.read_bytes() for path in paths
    ]


def test_own_storage_is_measured_and_left_as_it_was(
    share: Share, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """This network against this local disk: some requests, a chart, and nothing left behind."""
    for name, value in share.environ().items():
        monkeypatch.setenv(name, value)
    target = tmp_path / "report.json"
    location = f"rshare:{share.name}/new/deep"
    done = run("-m", "benchmarks.network_vs_local", location, "--tiny", "--json", str(target))
    assert done.returncode == 0, done.stderr
    report = report_of(target)
    assert set(report["ratios"]) == {"first_epoch_vs_local", "warm_vs_local", "first_epoch_vs_warm"}
    assert [case["name"] for case in report["cases"]][:2] == ["ours: first epoch", "ours: every later epoch"]
    assert share.server.password not in target.read_text() + done.stdout + done.stderr
    assert target.with_suffix(".png").is_file()
    assert list(share.root.iterdir()) == []
    assert len(share.requests("GET")) <= 4 * 8
    assert len(share.requests()) < 120


def test_mount_of_the_storage_is_measured_too(mount: RcloneMount, cloud_share: Share, tmp_path: Path) -> None:
    """A path on the mount is read through it as well."""
    target = tmp_path / "report.json"
    folder = mount.path / "measured" / "here"
    done = run("-m", "benchmarks.network_vs_local", str(folder), "--tiny", "--no-chart", "--json", str(target))
    assert done.returncode == 0, done.stderr
    assert "mount: open().read()" in [case["name"] for case in report_of(target)["cases"]]
    assert not (cloud_share.server.root / "measured").exists()
